"""The part of a store's report that shows what cameras saw: frames, clips, brightness."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from robot_rl.apps.inspect_chart import COLORS
from robot_rl.apps.inspect_pictures import Clip, Light, Pictures, Strip
from robot_rl.apps.inspect_survey import Survey, number_of, shortened
from robot_rl.apps.report_chart import Panel, Series, chart, number
from robot_rl.apps.report_page import folded, paragraph, table

EPISODES_OPEN = 12  # of the grid of frames; further ones open on a click
LEAST_BRIGHTNESS = 20.0  # of 255, that the axis of a chart of brightness spans
LIGHTS_DRAWN = 6  # episodes in a chart of brightness
CAPTION_TEXT = 90  # characters of an instruction under a picture


def camera_sections(survey: Survey, shown: Pictures) -> dict[str, tuple[str, str]]:
    """Frames, clips and brightness of the cameras: anchor to title and HTML."""
    if not shown.cameras:
        return {}
    words = f"Cameras: {', '.join(shown.cameras)}."
    if shown.omitted:
        words += f" {shown.omitted} more are not shown."
    by_episode: dict[int, list[Strip]] = {}
    for strip in shown.strips:
        by_episode.setdefault(strip.episode, []).append(strip)
    grid = [_strip_figure(survey, episode, strips) for episode, strips in by_episode.items()]
    first, rest = grid[:EPISODES_OPEN], grid[EPISODES_OPEN:]
    more = folded(f"{len(rest)} more episodes", f'<div class="strips">{"".join(rest)}</div>') if rest else ""
    films = "".join(_clip_figure(survey, clip, shown.cameras) for clip in shown.clips)
    return {
        "frames": (
            "First, middle and last frames",
            paragraph(f"{words} {number_of(len(by_episode), 'episode')}, spread evenly over the store.", "soft small")
            + "".join(f'<p class="warning">{escape(text)}</p>' for text in shown.damage)
            + f'<div class="strips">{"".join(first)}</div>{more}',
        ),
        "clips": ("Clips", f'<div class="films">{films}</div>' + _view_hint(survey) if films else ""),
        "light": ("Brightness", _light(survey, shown)),
    }


def _strip_figure(survey: Survey, episode: int, strips: Sequence[Strip]) -> str:
    images = "".join(
        f'<img loading="lazy" width="{strip.width}" height="{strip.height}" '
        f'alt="Episode {episode}, camera {escape(strip.camera)}: first, middle and last frame" '
        f'src="data:image/jpeg;base64,{base64.b64encode(strip.jpeg).decode()}">'
        for strip in strips
    )
    return f"<figure>{images}<figcaption>{_caption(survey, episode)}</figcaption></figure>"


def _clip_figure(survey: Survey, clip: Clip, cameras: Sequence[str]) -> str:
    speed = (
        "" if clip.speed is None else " · real time" if abs(clip.speed - 1) < 0.02 else f" · {clip.speed:.3g}× speed"
    )
    label = escape(f"Play episode {clip.episode}, cameras {', '.join(cameras)}")
    return (
        f'<figure><div class="film"><video data-click muted loop playsinline preload="metadata" '
        f'width="{clip.width}" height="{clip.height}" '
        f'poster="data:image/jpeg;base64,{base64.b64encode(clip.poster).decode()}" '
        f'src="data:video/mp4;base64,{base64.b64encode(clip.mp4).decode()}"></video>'
        f'<button type="button" aria-label="{label}"></button></div>'
        f'<input type="range" min="0" max="1000" value="0" aria-label="Position in the clip of episode {clip.episode}">'
        f"<figcaption>{_caption(survey, clip.episode)} · {clip.seconds:.1f} s{speed}</figcaption></figure>"
    )


def _caption(survey: Survey, episode: int) -> str:
    facts = [f"{survey.table.lengths[episode]} steps"]
    if "reward" not in survey.absent:
        facts.append(f"return {number(float(f'{survey.table.returns[episode]:.4g}'))}")
    if survey.table.success[episode] >= 0:
        facts.append("success" if survey.table.success[episode] == 1 else "no success")
    language = survey.table.metadata[episode].get("language")
    if isinstance(language, str) and survey.instructions > 1:
        facts.append(shortened(language, CAPTION_TEXT))
    return f"<b>episode {episode}</b> {escape(' · '.join(facts))}"


def _view_hint(survey: Survey) -> str:
    words = f"robot-rl view {survey.place} episodes=[0]"
    return f'<p class="soft small">An episode step by step: <code>{escape(words)}</code></p>'


def _light(survey: Survey, shown: Pictures) -> str:
    rows, charts = [], []
    for key in shown.cameras:
        lights = [light for light in shown.lights if light.camera == key]
        if not survey.spec.observation[key].is_image or not lights:
            continue
        brightness = np.concatenate([light.brightness for light in lights])
        change = np.concatenate([light.change for light in lights])
        height, width = survey.spec.observation[key].shape[:2]
        still = f"{(change < 0.01).mean():.1%}" if len(change) else "–"
        rows.append(
            [
                key,
                f"{width} × {height}",
                survey.tier(key),
                f"{brightness.mean():.0f}",
                f"{brightness.min():.0f} to {brightness.max():.0f}",
                f"{np.concatenate([light.contrast for light in lights]).mean():.0f}",
                f"{change.mean():.2f}" if len(change) else "–",
                still,
            ]
        )
        charts.append(f"<div><h3>{escape(key)}</h3>{_light_chart(survey, key, lights)}</div>")
    if not rows:
        return ""
    header = ["camera", "pixels", "tier", "brightness", "range", "contrast", "change a frame", "no change"]
    words = "Of 255, over the frames of the clips: a jump is a light that went on, a flat line at 0 is a dead camera."
    return paragraph(words, "soft small") + table(header, rows) + f'<div class="pair narrow">{"".join(charts)}</div>'


def _light_chart(survey: Survey, key: str, lights: Sequence[Light]) -> str:
    chosen = lights[:: -(-len(lights) // LIGHTS_DRAWN)]
    series = [
        Series(
            label=f"episode {light.episode}",
            x=light.steps.astype(float).tolist(),
            y=light.brightness.astype(float).tolist(),
            color=index % COLORS + 1,
        )
        for index, light in enumerate(chosen)
    ]
    description = f"Mean brightness of camera {key} over the steps of {len(chosen)} episodes"
    panel = Panel(x_label="step", series=series)
    values = np.concatenate([light.brightness for light in chosen])
    middle, half = float(values.min() + values.max()) / 2, max(float(np.ptp(values)) * 0.55, LEAST_BRIGHTNESS / 2)
    return chart(
        [panel],
        y_label="brightness",
        description=description,
        y_range=(middle - half, middle + half),
        width=520.0,
        height=230.0,
    )
