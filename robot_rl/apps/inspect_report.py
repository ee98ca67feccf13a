"""`report.html` of a store: one self-contained page that shows a person what the data is."""

import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from robot_rl.apps.inspect_cameras import camera_sections
from robot_rl.apps.inspect_chart import Group, bin_edges, histogram
from robot_rl.apps.inspect_measures import advice, measures_table
from robot_rl.apps.inspect_pictures import pictures
from robot_rl.apps.inspect_sections import channel_section, store_section, timing_section
from robot_rl.apps.inspect_survey import Survey, bytes_text, is_picture, number_of, shortened
from robot_rl.apps.report_chart import Panel, Series, chart, number
from robot_rl.apps.report_page import folded, page, paragraph, section, table, with_code
from robot_rl.apps.report_sections import duration, percent
from robot_rl.datasets.measures import measure
from robot_rl.datasets.schema import SEVERITIES, Finding
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.types import Array

TASKS_SHOWN = 40
TASK_TEXT = 300  # characters of an instruction
FINDINGS_OPEN = 6  # in all; above it those for information open on a click
FINDINGS_SHOWN = 60  # of one severity
GROUPS = 120  # points of the chart over all episodes
MINIMUM_EPISODES = 3  # below which a distribution says nothing
STYLE = """
nav{display:flex;flex-wrap:wrap;gap:2px 16px;margin:14px 0 0;font-size:14px}
nav a{color:var(--s1);text-decoration:none;padding:3px 0}nav a:hover,nav a:focus{text-decoration:underline}
section{scroll-margin-top:12px}.card{min-width:0}
.badge.error{color:var(--bad)}.badge.warning{color:var(--s5);background:none;padding:1px 11px;margin:0 0 0 8px;
border-left:1px solid;border-radius:99px}.badge.information{color:var(--s1)}.badge.fine{color:var(--good)}
.finding{border-left:4px solid var(--rule);background:var(--shade);border-radius:4px;padding:8px 14px;margin:8px 0}
.finding.error{border-color:var(--bad)}.finding.warning{border-color:var(--s5)}.finding.information{border-color:var(--s1)}
.finding b{margin-right:8px}.finding.error b{color:var(--bad)}.finding.warning b{color:var(--s5)}
.finding.information b{color:var(--s1)}.finding p{margin:2px 0;overflow-wrap:anywhere}
.tiles{grid-template-columns:repeat(auto-fit,minmax(158px,1fr))}
.tile b{font-size:23px}.scroll+.scroll{margin-top:16px}
.narrow{grid-template-columns:repeat(auto-fill,minmax(min(430px,100%),1fr))}
.histograms{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr));gap:4px 22px}
.histogram svg,.channel svg,.narrow svg{min-width:0}
.channels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(310px,100%),1fr));gap:14px 22px;margin:10px 0}
.channel{margin:0;overflow:hidden}.channel figcaption{font-size:13px;overflow-wrap:anywhere}
.channel figcaption b{margin-right:6px}.channel .numbers{font-size:12px;color:var(--soft);
font-variant-numeric:tabular-nums}
.tag{display:inline-block;border:1px solid;border-radius:99px;padding:0 8px;font-size:11.5px;font-weight:600;
margin-left:6px;color:var(--s5)}.tag.bad{color:var(--bad)}
.line.thin{stroke-width:1.3;opacity:.9}.side{fill:var(--mark);opacity:.45}
.strips{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(240px,100%),1fr));gap:14px 18px;margin-top:10px}
.strips figure,.films figure{margin:0;overflow:hidden}.strips img{width:100%;height:auto;display:block;
margin-bottom:3px;background:#000;border-radius:4px}.strips figcaption,.films figcaption{font-size:13px;
color:var(--soft)}.strips figcaption b,.films figcaption b{color:var(--text)}
.films{grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr))}video{height:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:8px 0;font-size:14px}
dd details{margin:0}.legend i.dashed{border-color:var(--mark)}
.film{position:relative}.film video{object-fit:cover}
.film button{position:absolute;inset:0;width:100%;border:0;background:none;cursor:pointer;padding:0}
.film button::after{content:"";position:absolute;left:50%;top:50%;width:54px;height:54px;margin:-27px;border-radius:50%;
background:rgba(0,0,0,.55) url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 54 54'%3E\
%3Cpath d='M21 16l19 11-19 11z' fill='white'/%3E%3C/svg%3E");opacity:.9}
.film button:hover::after,.film button:focus-visible::after{background-color:rgba(0,0,0,.8)}
.film.playing button::after{display:none}.film button:focus-visible{outline:3px solid var(--s1);outline-offset:-3px}
dl.advice{gap:12px 18px}dl.advice p{margin:2px 0 0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
@media (max-width:560px){main{padding:16px 12px 40px}.card{padding:14px 14px}.tile b{font-size:21px}
.tiles{grid-template-columns:repeat(2,1fr)}dl{grid-template-columns:1fr}dt{margin-top:6px}}
@media print{nav,video{display:none}}
"""


SCRIPT = """
for(const film of document.querySelectorAll('.film')){
 const video=film.querySelector('video'),bar=film.nextElementSibling;
 film.querySelector('button').onclick=()=>video.paused?video.play():video.pause();
 video.onplay=()=>film.classList.add('playing');video.onpause=()=>film.classList.remove('playing');
 video.ontimeupdate=()=>{if(video.duration)bar.value=1000*video.currentTime/video.duration};
 bar.oninput=()=>{video.pause();video.currentTime=bar.value*video.duration/1000};
}
"""


def write_report(folder: Path, survey: Survey, findings: Sequence[Finding]) -> Path:
    """Write `report.html` into a folder, which is made where missing. The page appears whole or not at all.

    Args:
        folder: of the page.
        survey: the store, read.
        findings: of the validation.

    Returns:
        The path of the page, which needs no other file and no network.

    Raises:
        InputError: the disk is full.
    """
    shown, measures = pictures(survey.store), measure(survey.store)
    parts = {
        "findings": ("Findings", _findings(findings)),
        **camera_sections(survey, shown),
        "measures": ("What the data is good for", measures_table(measures)),
        "advice": ("Which recipe fits", advice(measures, survey.place)),
        "distributions": ("Distributions", _distributions(survey)),
        "tasks": ("Tasks and splits", _tasks(survey)),
        **channel_section(survey),
        **timing_section(survey),
        **store_section(survey),
    }
    parts = {anchor: part for anchor, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, (title, _) in parts.items())
    body = "".join(section(title, content, anchor=anchor) for anchor, (title, content) in parts.items())
    name = survey.name
    text = page(
        f"{name}: data", f"{_headline(survey, findings, links)}{_tiles(survey)}{body}", style=STYLE, script=SCRIPT
    )
    path, temporary = folder / "report.html", folder / f".report.{os.getpid()}.tmp.html"
    with clear_disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _headline(survey: Survey, findings: Sequence[Finding], links: str) -> str:
    counts = Counter(finding.severity for finding in findings)
    worst = next((severity for severity in SEVERITIES[:2] if counts[severity]), "")
    badge = f'<span class="badge {worst}">{number_of(counts[worst], worst)}</span>' if worst else ""
    badge = badge if badge else '<span class="badge fine">nothing wrong found</span>'
    provenance = survey.store.provenance
    facts = [str(provenance[key]) for key in ("format", "source") if provenance.get(key)]
    facts.append(survey.place)
    return (
        f"<header><h1>{escape(survey.name)}{badge}</h1>"
        f'<p class="soft small">{escape(" · ".join(facts))}</p>'
        f'<nav aria-label="Parts of this page">{links}</nav></header>'
    )


def _tiles(survey: Survey) -> str:
    lengths, spec = survey.table.lengths, survey.spec
    steps = int(lengths.sum())
    known = survey.table.known_success
    tiles = [
        (number(len(survey.table)), "episode" if len(survey.table) == 1 else "episodes"),
        (number(steps), f"steps, {_span(lengths)} an episode"),
        _time_tile(steps, spec.control_period_s),
    ]
    if known.any():
        good = int((survey.table.success == 1).sum())
        tiles.append((percent(good / int(known.sum())), f"succeed: {good} of {int(known.sum())}"))
    else:
        tiles.append(("–", "success is not recorded"))
    if "reward" in survey.absent:
        tiles.append(("–", "reward is not recorded"))
    else:
        returns = survey.table.returns
        tiles.append((number(float(f"{returns.mean():.3g}")), f"mean return, {_span(returns)}"))
    cameras = number_of(sum(map(is_picture, survey.spec.observation.values())), "camera")
    tiles.append((bytes_text(survey.bytes), f"{survey.bytes_place}, {cameras}"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _time_tile(steps: int, period_s: float | None) -> tuple[str, str]:
    if period_s is None:
        return "–", "control period is not declared"
    return duration(steps * period_s), f"at {number(1 / period_s)} Hz"


def _span(values: Array) -> str:
    low, high = number(float(f"{values.min():.4g}")), number(float(f"{values.max():.4g}"))
    return low if low == high else f"{low} to {high}"


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return paragraph("Every check passed: nothing odd was found.")
    parts = []
    for severity in SEVERITIES:
        found = [finding for finding in findings if finding.severity == severity]
        cards = [_finding_card(finding) for finding in found[:FINDINGS_SHOWN]]
        if len(found) > FINDINGS_SHOWN:
            cards.append(paragraph(f"and {len(found) - FINDINGS_SHOWN} more", "soft"))
        if severity == "information" and len(findings) > FINDINGS_OPEN:
            parts.append(folded(f"{len(found)} for information", "".join(cards)) if cards else "")
        else:
            parts += cards
    return "".join(parts)


def _finding_card(finding: Finding) -> str:
    remedy = f'<p class="soft">{with_code(finding.remedy)}</p>' if finding.remedy else ""
    return (
        f'<div class="finding {finding.severity}"><p><b>{finding.severity}</b><code>{escape(finding.place)}</code></p>'
        f"<p>{with_code(finding.text)}</p>{remedy}</div>"
    )


def _groups(survey: Survey) -> list[tuple[str, Array, int]]:
    """Label, members and colour of the parts of a histogram over episodes. Shapes: each (N,)."""
    good = survey.table.success == 1
    unknown = ~survey.table.known_success
    if unknown.all():
        return [("episodes", unknown, 1)]
    groups = [("successful", good, 3), ("without success", ~good & ~unknown, 2), ("not known", unknown, 6)]
    return [group for group in groups if group[1].any()]


def _distributions(survey: Survey) -> str:
    lengths, returns = survey.table.lengths, survey.table.returns
    parts, charts = [], []
    groups = _groups(survey)
    has_reward = "reward" not in survey.absent
    if len(lengths) >= MINIMUM_EPISODES:
        columns = [("Length", lengths, "steps", True)]
        columns += [("Return", returns, "sum of the recorded reward", False)] if has_reward else []
        for title, values, unit, whole in columns:
            median = float(np.median(values))
            charts.append(
                f"<div><h3>{title} of the episodes</h3>"
                + histogram(
                    [Group(label=label, values=values[mask], color=color) for label, mask, color in groups],
                    x_label=unit,
                    y_label="episodes",
                    description=f"Histogram of the {title.lower()} of {len(values)} episodes, {_span(values)} {unit}",
                    edges=bin_edges(values, whole=whole),
                    mark=(median, f"median {number(float(f'{median:.4g}'))}"),
                )
                + "</div>"
            )
    if has_reward:
        rewards = survey.rows("reward")[:, 0]
        charts.append(
            "<div><h3>Reward of the steps</h3>"
            + histogram(
                [Group(label="steps", values=rewards, color=1)],
                x_label="recorded reward",
                y_label="steps (sampled)",
                description=f"Histogram of the reward of {len(rewards)} sampled steps, {_span(rewards)}",
                edges=bin_edges(rewards),
            )
            + "</div>"
        )
    parts.append(f'<div class="histograms">{"".join(charts)}</div>' if charts else "")
    if len(lengths) >= 3 * MINIMUM_EPISODES:
        parts.append(_in_order(survey, has_reward))
    ends = (
        f"Of {number_of(len(lengths), 'episode')}, {int(survey.table.terminated.sum())} terminated (the task ended), "
        f"{int(survey.table.truncated.sum())} truncated (the recording stopped), "
        f"{int((~survey.table.complete).sum())} without the observation behind the last step."
    )
    if "reward" in survey.absent:
        ends = f"The source has no reward. {ends}"
    return "".join([*parts, paragraph(ends, "soft small")])


def _in_order(survey: Survey, has_reward: bool) -> str:
    """Return, or length, over the episodes; of many, the mean and the spread of groups of neighbours."""
    values = (survey.table.returns if has_reward else survey.table.lengths).astype(np.float64)
    name = "return" if has_reward else "length"
    groups = np.array_split(np.arange(len(values)), min(len(values), GROUPS))
    several = len(groups[0]) > 1
    line = Series(
        label=f"mean {name} of {len(groups[0])} episodes, 10 % to 90 %" if several else name,
        x=[float(group.mean()) for group in groups],
        y=[float(values[group].mean()) for group in groups],
        low=[float(np.percentile(values[group], 10)) for group in groups] if several else None,
        high=[float(np.percentile(values[group], 90)) for group in groups] if several else None,
    )
    description = f"The {name} of the {len(values)} episodes in the order of the store"
    picture = chart([Panel(x_label="episode", series=[line])], y_label=name, description=description, height=220.0)
    return f"<h3>{name.capitalize()} in the order of the store</h3>{picture}"


def _tasks(survey: Survey) -> str:
    parts = []
    for heading, key in (("instruction", "language"), ("task", "task"), ("split", "split")):
        texts = survey.table.texts(key)
        if any(text is not None for text in texts):
            parts.append(_share_table(survey, heading, texts))
    return "".join(parts)


def _share_table(survey: Survey, heading: str, texts: Sequence[str | None]) -> str:
    names = np.asarray(["(none)" if text is None else text for text in texts], object)
    counts = Counter(names.tolist())
    rows = []
    for name, count in counts.most_common(TASKS_SHOWN):
        members = names == name
        known = members & survey.table.known_success
        success = percent((survey.table.success[known] == 1).mean()) if known.any() else "–"
        rows.append(
            [shortened(str(name), TASK_TEXT), f"{count}", f"{int(survey.table.lengths[members].sum())}", success]
        )
    more = paragraph(f"and {len(counts) - TASKS_SHOWN} more", "soft") if len(counts) > TASKS_SHOWN else ""
    return table([heading, "episodes", "steps", "success"], rows, text_columns=[0]) + more
