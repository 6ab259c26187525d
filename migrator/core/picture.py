"""A timeline as a picture: SVG, drawn from the JSON of `core.timeline`.

Pure. Two panels of bars: the whole migration, and below it what lies between the pause and the container's first
answer, which is a sliver of the first. Steps stand below their phase, in the colour of the side that took them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from migrator.core.timeline import TARGET, human_bytes, milliseconds

WIDTH, NAMES, ROW, MARGIN = 960, 260, 20, 12
PLOT: Final = WIDTH - NAMES - 2 * MARGIN - 150  # what is left for bars, beside names and figures
COLOURS: Final = {"phase": "#4a5568", "source": "#3182ce", "target": "#dd6b20", "stands still": "#e53e3e"}

Bar = tuple[str, str, float, float, str]  # name, kind, start, seconds, figures


def svg(result: Mapping[str, Any]) -> str:
    """RESULT: of a migration, as JSON."""
    timeline = result["timeline"]
    bars = list(_bars(timeline))
    end = max((start + seconds for _, _, start, seconds, _ in bars), default=0.0)
    parts, height = [], MARGIN
    title = f"{result['container']} to {result['target']} ({result['migration']})"
    for name, begin, until, rows in _panels(timeline, bars, end):
        parts.append(f'<text x="{MARGIN}" y="{height + 14}" font-weight="bold">{escape(name)}</text>')
        height += 2 * ROW
        for row in rows:
            parts += _row(row, height, begin, max(until - begin, 1e-9))
            height += ROW
        height += ROW
    legend = "".join(
        f'<rect x="{NAMES + number * 130}" y="{height}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{NAMES + 18 + number * 130}" y="{height + 11}">{kind}</text>'
        for number, (kind, colour) in enumerate(COLOURS.items())
    )
    height += ROW + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>{"".join(parts)}{legend}</svg>\n'
    )


def _bars(timeline: Mapping[str, Any]) -> Iterator[Bar]:
    for phase in timeline["phases"]:
        yield phase["phase"], "phase", phase["start_s"], phase["seconds"], _figures(phase["seconds"], phase["bytes"])
        for step in phase["steps"]:
            name = f"    {step['name']}"
            yield name, step["side"], step["start"], step["seconds"], _figures(step["seconds"], step["bytes"])


def _panels(timeline: Mapping[str, Any], bars: list[Bar], end: float) -> Iterator[tuple[str, float, float, list[Bar]]]:
    paused, opened = timeline["paused_s"], timeline["opened_s"]
    still: list[Bar] = []
    if paused is not None and opened is not None:
        still = [("container stands still", "stands still", paused, opened - paused, milliseconds(opened - paused))]
    yield f"the whole migration, {milliseconds(end)}", 0.0, end, [*still, *(bar for bar in bars if bar[1] == "phase")]
    if still:
        until = max(opened, paused + (timeline.get("gap_s") or 0.0))
        inside = [bar for bar in bars if bar[2] < until and bar[2] + bar[3] > paused]
        yield f"from the pause to the first answer, {milliseconds(until - paused)}", paused, until, [*still, *inside]


def _row(bar: Bar, top: float, begin: float, span: float) -> Iterator[str]:
    name, kind, start, seconds, figures = bar
    left = max(start - begin, 0.0) / span * PLOT
    width = max(min(start + seconds - begin, span) / span * PLOT - left, 1.0)
    colour = COLOURS["target"] if kind == TARGET else COLOURS[kind]
    yield (
        f'<text x="{MARGIN}" y="{top + 12}" xml:space="preserve">{escape(name)}</text>'
        f'<rect x="{NAMES + left:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        f'<text x="{NAMES + left + width + 4:.1f}" y="{top + 12}" fill="#4a5568">{escape(figures)}</text>'
    )


def _figures(seconds: float, count: int) -> str:
    return milliseconds(seconds) + (f", {human_bytes(count)}" if count else "")
