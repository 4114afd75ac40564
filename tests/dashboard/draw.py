"""The panels as one SVG, each in its place on the dashboard's grid. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import msgspec

from tests.benchmarks.chart import COLOURS, text

CELL, LINE = 50, 26
"""What the grid's units are, in pixels: 24 across."""
GAP, HEAD, FOOT, AXIS = 6, 24, 34, 56
MORE_COLOURS = (*COLOURS, "#b5494c", "#4c9aa0", "#8f7f3a", "#666")
STATES = {"green": "#2e7d32", "red": "#c62828", "orange": "#d9822b", "yellow": "#b8860b"}


class Series(msgspec.Struct, frozen=True):
    name: str
    points: Sequence[tuple[float, float]]
    """Seconds since the beginning, and the value."""
    unit: str
    right: bool = False
    """On an axis of its own."""


class Place(msgspec.Struct, frozen=True):
    x: int
    y: int
    w: int
    h: int


class Drawn(msgspec.Struct, frozen=True):
    """A panel with what it shows: of these, what its kind needs."""

    kind: str
    title: str
    place: Place
    series: Sequence[Series] = ()
    told: str = ""
    colour: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def told(value: float, unit: str) -> str:
    """A number with its unit, in three digits."""
    if unit in {"bytes", "Bps"}:
        names, step = ("B", "KiB", "MiB", "GiB", "TiB"), 1024.0
        power = min(int(math.log(abs(value), step)), 4) if abs(value) >= 1 else 0
        return f"{_short(value / step**power)} {names[power]}{'/s' if unit == 'Bps' else ''}"
    if unit == "s":
        if value and abs(value) < 1:
            return f"{_short(value * 1000)} ms"
        return f"{_short(value)} s" if abs(value) < 120 else f"{_short(value / 60)} min"
    if unit == "percentunit":
        return f"{_short(value * 100)} %"
    return _short(value) + {"eps": " events/s", "rowsps": " rows/s"}.get(unit, "")


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def svg(panels: Sequence[Drawn], note: str) -> str:
    """`note` stands above them."""
    top = 34
    height = top + max(panel.place.y + panel.place.h for panel in panels) * LINE + GAP
    parts = [text(GAP, 22, note)]
    for panel in panels:
        left, y = panel.place.x * CELL + GAP, top + panel.place.y * LINE
        room = (panel.place.w * CELL - GAP, panel.place.h * LINE - GAP)
        parts.append(f'<g transform="translate({left} {y})">')
        parts += _KINDS[panel.kind](panel, *room)
        parts.append("</g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * CELL + GAP} {height}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="100%" height="100%" fill="#f4f5f7"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _frame(panel: Drawn, width: int, height: int) -> list[str]:
    frame = f'<rect width="{width}" height="{height}" rx="3" fill="white" stroke="#d5d8dd"/>'
    return [frame, text(10, 17, panel.title, weight="bold")]


def _row(panel: Drawn, width: int, height: int) -> list[str]:
    del width, height
    return [text(4, 15, f"▾ {panel.title}", weight="bold")]


def _stat(panel: Drawn, width: int, height: int) -> list[str]:
    colour, size = STATES.get(panel.colour, "#333"), 28 if len(panel.told) < 10 else 22
    number = (
        f'<text x="{width / 2:.0f}" y="{height / 2 + 20:.0f}" text-anchor="middle" font-size="{size}" font-weight="bold"'
        f' fill="{colour}">{escape(panel.told)}</text>'
    )
    return [*_frame(panel, width, height), number]


def _table(panel: Drawn, width: int, height: int) -> list[str]:
    parts = _frame(panel, width, height)
    lines = [list(panel.columns), *panel.rows]
    longest = [max(len(line[n]) for line in lines) for n in range(len(panel.columns))]
    each = (width - 20) / sum(min(length, 60) + 2 for length in longest)
    for number, line in enumerate(lines[: (height - HEAD) // 20]):
        x, y = 10.0, HEAD + 16 + 20 * number
        for words, length in zip(line, longest, strict=True):
            room = (min(length, 60) + 2) * each
            most = max(int(room / 6.3), 4)
            shown = words if len(words) <= most else f"{words[: most - 1]}…"
            parts.append(text(x, y, shown, weight="bold" if number == 0 else "normal"))
            x += room
    return parts


def _timeseries(panel: Drawn, width: int, height: int) -> list[str]:
    parts = _frame(panel, width, height)
    left, right = AXIS + 22, width - (AXIS + 14 if any(each.right for each in panel.series) else 12)
    top, bottom = HEAD + 8, height - FOOT
    points = [point for each in panel.series for point in each.points]
    if not points:
        return [*parts, text((left + right) / 2, (top + bottom) / 2, "no data", anchor="middle")]
    end = max(at for at, _ in points)

    def across(at: float) -> float:
        return left + (right - left) * at / max(end, 1)

    for on_right in (False, True):
        mine = [each for each in panel.series if each.right is on_right]
        if mine:
            low, high = _scale([value for each in mine for _, value in each.points], mine[0].unit)
            ticks = [low + (high - low) * n / 4 for n in range(5)]
            height_of = _linear(low, high, bottom, top)
            for tick in ticks:
                y, words = height_of(tick), told(tick, mine[0].unit)
                x, anchor = (right + 5, "start") if on_right else (left - 5, "end")
                parts.append(
                    text(x, round(y + 4), words.replace(" events/s", "/s").replace(" rows/s", "/s"), anchor=anchor)
                )
                if not on_right:
                    parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#e4e6ea"/>')
            for each in mine:
                path = "L".join(f"{across(at):.0f} {height_of(value):.1f}" for at, value in each.points)
                colour = MORE_COLOURS[panel.series.index(each) % len(MORE_COLOURS)]
                parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for half in range(int(end // 30) + 1):
        anchor = "start" if half == 0 else "middle"
        parts.append(text(across(half * 30), bottom + 14, f"{half // 2}:{half % 2 * 30:02}", anchor=anchor))
    x = 10.0
    for number, each in enumerate(panel.series):
        colour = MORE_COLOURS[number % len(MORE_COLOURS)]
        parts.append(f'<path d="M{x:.0f} {height - 10}h10" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 13:.0f}" y="{height - 7}" font-size="11">{escape(each.name)}</text>')
        x += 22 + 5.8 * len(each.name)
    return parts


def _scale(values: Sequence[float], unit: str) -> tuple[float, float]:
    """From 0, or from below, to a round number above all."""
    low, high = min(0.0, *values), max(0.0, *values)
    if high == low:
        return low, low + 1
    whole = 1024.0 if unit in {"bytes", "Bps"} else 1.0
    while whole > 1 and high - low >= whole * 1024:
        whole *= 1024
    if high - low < whole:
        whole = 1.0
    power = whole * 10 ** math.floor(math.log10((high - low) / whole))
    return low, next(each * power for each in (1, 2, 4, 6, 8, 10) if each * power >= high)


def _linear(low: float, high: float, bottom: float, top: float) -> Callable[[float], float]:
    return lambda value: bottom - (bottom - top) * (value - low) / (high - low)


_KINDS: Mapping[str, Callable[[Drawn, int, int], list[str]]] = {
    "row": _row,
    "stat": _stat,
    "table": _table,
    "timeseries": _timeseries,
}
