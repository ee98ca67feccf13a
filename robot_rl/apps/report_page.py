"""The frame of a report: its style sheet, its few lines of script, and small pieces of HTML."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--text:#1b1f24;--soft:#5c6672;--rule:#dfe3e8;--plot:#fbfcfd;--shade:#eceff3;
--s1:#0b6bcb;--s2:#d9480f;--s3:#2b8a3e;--s4:#862e9c;--s5:#a67c00;--s6:#0b7285;--good:#2b8a3e;--bad:#c92a2a;--mark:#495057}
@media (prefers-color-scheme:dark){:root{--bg:#101317;--card:#181c22;--text:#e6e9ed;--soft:#9aa5b1;--rule:#2c333c;
--plot:#1c2128;--shade:#242b34;--s1:#58a6ff;--s2:#ff8a4c;--s3:#56d364;--s4:#d2a8ff;--s5:#e3b341;--s6:#4dd0e1;
--good:#56d364;--bad:#ff7b72;--mark:#b6c0cb}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 2px;line-height:1.25}h2{font-size:18px;margin:0 0 4px}h3{font-size:15px;margin:18px 0 2px}
p{margin:6px 0}.soft{color:var(--soft)}.small{font-size:13px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;margin:16px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:26px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px;display:block}
.badge{display:inline-block;border-radius:99px;padding:1px 11px;font-size:13px;font-weight:600;border:1px solid;
vertical-align:4px;margin-left:8px}
.finished{color:var(--good)}.interrupted,.empty{color:var(--bad)}.running{color:var(--s5)}
.warning{border-left:4px solid var(--s5);padding:6px 12px;margin:8px 0;background:var(--shade);border-radius:4px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:13px}th:first-child,td:first-child{text-align:left}
td.text,th.text{text-align:left;white-space:normal;overflow-wrap:anywhere}tr.strong td{font-weight:600}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--plot);border:1px solid var(--rule);border-radius:6px;padding:10px 12px;overflow:auto;margin:8px 0;
max-height:640px}pre.line{white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer;font-weight:600}
figure{margin:10px 0 4px;overflow-x:auto}
svg{display:block;width:100%;min-width:680px;height:auto}.pair svg{min-width:380px}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg .panel-title{fill:var(--text);font-weight:600;font-size:13px}svg .tick{font-size:11.5px}
svg .note{font-size:11.5px}svg .callout-text{fill:var(--bad);font-weight:600}
.plot{fill:var(--plot);stroke:var(--rule)}.grid{stroke:var(--rule);stroke-width:.7}.tickmark{stroke:var(--soft)}
.shade{fill:var(--shade)}.mark{stroke:var(--mark);stroke-dasharray:2 3;stroke-width:1.3}
.level{stroke:var(--mark);stroke-dasharray:6 4;stroke-width:1.2}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.line.dashed{stroke-dasharray:6 4}.band{opacity:.17}
.whisker{stroke-width:5;opacity:.3}
.hit{fill:transparent}.hit:hover{fill:var(--mark);fill-opacity:.25}
.callout{fill:none;stroke:var(--bad);stroke-width:2}
.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}.s4{stroke:var(--s4)}.s5{stroke:var(--s5)}
.s6{stroke:var(--s6)}.f1{fill:var(--s1)}.f2{fill:var(--s2)}.f3{fill:var(--s3)}.f4{fill:var(--s4)}.f5{fill:var(--s5)}
.f6{fill:var(--s6)}.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);padding-left:5.6%}
.legend i{display:inline-block;width:20px;border-top:3px solid;margin-right:6px;vertical-align:4px}
.legend i.dashed{border-top-style:dashed}.legend .b1{border-color:var(--s1)}.legend .b2{border-color:var(--s2)}
.legend .b3{border-color:var(--s3)}.legend .b4{border-color:var(--s4)}
.legend .b5{border-color:var(--s5)}.legend .b6{border-color:var(--s6)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:6px 22px}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:16px;margin-top:10px}
video{width:100%;border-radius:6px;background:#000;display:block;cursor:pointer}
input[type=range]{width:100%;margin:4px 0 0;display:block;accent-color:var(--s1)}
#tip{position:fixed;pointer-events:none;background:var(--text);color:var(--bg);padding:5px 9px;border-radius:6px;
font-size:12.5px;white-space:pre-line;max-width:340px;z-index:9;display:none}
@media print{input[type=range]{display:none}
:root{--bg:#fff;--card:#fff;--text:#000;--soft:#444;--rule:#ccc;--plot:#fff;--shade:#eee;--s1:#0b6bcb;
--s2:#d9480f;--s3:#2b8a3e;--s4:#862e9c;--s5:#a67c00;--s6:#0b7285;--good:#2b8a3e;--bad:#c92a2a;--mark:#495057}
figure,tr,.tile{break-inside:avoid}h2,h3{break-after:avoid}
main{padding:0}th,td{padding:3px 5px;font-size:10.5px}.pair{grid-template-columns:1fr 1fr}
.films{grid-template-columns:repeat(3,1fr)}.tiles{grid-template-columns:repeat(4,1fr)}svg,.pair svg{min-width:0}}
"""

SCRIPT = """
for(const video of document.querySelectorAll('video:not([data-click])')){
 const bar=video.nextElementSibling;
 video.ontimeupdate=()=>{if(video.duration)bar.value=1000*video.currentTime/video.duration};
 video.onclick=()=>video.paused?video.play():video.pause();
 bar.oninput=()=>{video.pause();video.currentTime=bar.value*video.duration/1000};
 if(!matchMedia('(prefers-reduced-motion: reduce)').matches)video.play().catch(()=>{});
}
const tip=document.getElementById('tip');
document.addEventListener('mousemove',event=>{
 const text=event.target.dataset&&event.target.dataset.tip;
 if(!text){tip.style.display='none';return}
 tip.textContent=text;tip.style.display='block';
 tip.style.left=Math.min(event.clientX+14,innerWidth-tip.offsetWidth-8)+'px';
 tip.style.top=Math.max(event.clientY-tip.offsetHeight-10,8)+'px';
});
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole document that needs nothing outside itself; the policy in its head forbids the rest.

    Args:
        title: of the window.
        body: HTML.
        style: rules behind those of every report.
        script: behind that of every report.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; media-src data:; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body><main>{body}</main>"
        f'<div id="tip"></div><script>{SCRIPT}{script}</script></body></html>\n'
    )


def section(title: str, *parts: str, anchor: str = "") -> str:
    """A card with a heading, which links may name; nothing where there are no parts."""
    body = "".join(parts)
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f'<section class="card"{name}><h2>{escape(title)}</h2>{body}</section>' if body else ""


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def with_code(text: str) -> str:
    """Plain text as HTML; what stands between backticks is set as code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # one backtick has no partner
        return escape(text)
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def folded(title: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>" if body else ""


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = (), strong: Sequence[int] = ()
) -> str:
    """A table of plain texts; numbers to the right, `text_columns` to the left, rows of `strong` in bold."""

    def cells(row: Sequence[str], tag: str) -> str:
        styles = ['class="text"' if index in text_columns else "" for index in range(len(row))]
        return "".join(f"<{tag} {style}>{escape(cell)}</{tag}>" for cell, style in zip(row, styles, strict=True))

    body = "".join(
        f'<tr class="strong">{cells(row, "td")}</tr>' if index in strong else f"<tr>{cells(row, 'td')}</tr>"
        for index, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
