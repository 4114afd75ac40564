"""A bar chart as SVG, written by hand: groups of horizontal bars on a logarithmic or linear scale. Pure."""

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, LABELS, NUMBERS = 760, 250, 70
BAR, GAP, TITLE = 14, 6, 34
COLOURS = ("#2f6f9f", "#c9772b", "#5b8c5a", "#8a5a9c")


class Bar(msgspec.Struct, frozen=True):
    label: str
    value: float
    shown: str
    """What is written at its end; a value of 0 has nothing else."""
    kind: int = 0
    """Its colour."""


class Panel(msgspec.Struct, frozen=True):
    title: str
    bars: Sequence[Bar]
    mark: float | None = None
    """A line to compare with."""
    logarithmic: bool = False


def svg(panels: Sequence[Panel], kinds: Sequence[str] = ()) -> str:
    """One below the other, under a legend of the colours."""
    parts, top = [], 10
    for number, kind in enumerate(kinds):
        left = 10 + 160 * number
        parts.append(f'<rect x="{left}" y="{top}" width="12" height="12" fill="{COLOURS[number]}"/>')
        parts.append(text(left + 18, top + 10, kind))
    top += 14 if kinds else 0
    for panel in panels:
        parts += _panel(panel, top)
        top += TITLE + len(panel.bars) * (BAR + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 10}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(panel: Panel, top: int) -> list[str]:
    parts = [text(10, top + 24, panel.title, weight="bold")]
    values = [bar.value for bar in panel.bars] + [panel.mark] * (panel.mark is not None)
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * (BAR + GAP)
        width = _width(panel, bar.value, values)
        parts.append(text(LABELS - 8, y + 11, bar.label, anchor="end"))
        parts.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[bar.kind]}"/>')
        parts.append(text(LABELS + width + 5, y + 11, bar.shown))
    if panel.mark is not None:
        x = LABELS + _width(panel, panel.mark, values)
        low, high = top + TITLE - 3, top + TITLE + len(panel.bars) * (BAR + GAP) - 3
        parts.append(f'<line x1="{x:.1f}" y1="{low}" x2="{x:.1f}" y2="{high}" stroke="#444" stroke-dasharray="4 3"/>')
    return parts


def _width(panel: Panel, value: float, values: Sequence[float | None]) -> float:
    numbers = [each for each in values if each]
    room = WIDTH - LABELS - NUMBERS
    if not value:
        return 0.0
    if not panel.logarithmic:
        return room * value / max(numbers)
    low = math.floor(math.log10(min(numbers)))
    return room * (math.log10(value) - low) / max(math.log10(max(numbers)) - low, 0.01)


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
