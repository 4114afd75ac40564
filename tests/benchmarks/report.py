"""The results as Markdown tables: for the terminal and for docs/performance.md alike. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.benchmarks.goals import Goal, goals

Results = dict[str, Any]
Cell = dict[str, Any]


def table(results: Results) -> str:
    """All of it."""
    return "\n".join(f"## {title}\n\n{body}" for title, body in sections(results))


def sections(results: Results) -> list[tuple[str, str]]:
    """Titles and tables, of what was measured."""
    made = {
        "throughput": ("Throughput", _throughput),
        "stages": ("Where the time goes", _stages),
        "rls": ("Row level security", _rls),
        "latency": ("Latency", _latency),
        "startup": ("Start and rest", _startup),
    }
    found = [(title, make(results[name])) for name, (title, make) in made.items() if name in results]
    if reached := goals(results):
        found.append(("Goals", _goals(reached)))
    return [*found, ("Machine", _rows(["", ""], results["machine"].items()))]


def _throughput(cells: Sequence[Cell]) -> str:
    head = [
        "to",
        "plugin",
        "rows in a transaction",
        "transport",
        "against",
        "ratio",
        "lowest – highest",
        "changes/s",
        "of that",
        "bridge's CPU, µs a change",
    ]
    rows = []
    for cell in cells:
        where = [cell["to"], cell["plugin"], f"{cell['rows_per_transaction']:,}", cell["transport"], cell["against"]]
        if cell.get("capped"):
            rows.append([*where, "time was up", "", "", "", ""])
        else:
            between = f"{cell['lowest']:.2f} – {cell['highest']:.2f}"
            rates = [f"{cell['changes_per_second']:,.0f}", f"{cell['reference_per_second']:,.0f}"]
            rates.append(f"{cell['cpu_us_per_change']:.1f}")
            rows.append([*where, f"**{cell['ratio']:.2f}**", between, *rates])
    return _rows(head, rows)


def _stages(cells: Sequence[Cell]) -> str:
    parts = ("decode", "judge", "write", "stdout", "kafka")
    head = ["plugin", "rows in a transaction", "decode", "match and judge", "write", "all, to stdout", "all, to Kafka"]
    return _rows(
        head,
        [
            [cell["plugin"], f"{cell['rows_per_transaction']:,}", *(f"{cell[part]:.1f}" for part in parts)]
            for cell in cells
        ],
    )


def _goals(found: Sequence[Goal]) -> str:
    rows = [[what, goal, measured, "yes" if reached else "**no**"] for what, goal, measured, reached in found]
    return _rows(["what", "goal", "measured", "reached"], rows)


def _rls(cells: Sequence[Cell]) -> str:
    head = [
        "policy",
        "subscribers",
        "rows",
        "changes/s",
        "µs a change",
        "µs a decision",
        "original: µs a change",
        "original : bridge",
    ]
    return _rows(
        head,
        [
            [
                cell["policy"],
                f"{cell['subscribers']:,}",
                f"{cell['rows']:,}" if "rows" in cell else f"time was up at {cell['capped_at_rows']:,}",
                _number(cell.get("changes_per_second")),
                _number(cell.get("us_per_change")),
                _number(cell.get("us_per_decision")),
                "time was up" if cell.get("original_capped") else _number(cell.get("original_us_per_change")),
                f"**{_number(cell['ratio'])}**" if "ratio" in cell else "",
            ]
            for cell in cells
        ],
    )


def _latency(cells: Sequence[Cell]) -> str:
    head = ["to", "changes/s", "p50, ms", "p99, ms", "p50 against pg_recvlogical"]
    rows = []
    for cell in cells:
        to = f"{cell['to']}, RLS" if cell["rls"] else cell["to"]
        if cell.get("capped"):
            rows.append([to, f"{cell['rate']:,}", "time was up", "", ""])
        else:
            times = [f"{cell['p50_ms']:.2f}", f"{cell['p99_ms']:.2f}"]
            rows.append([to, f"{cell['rate']:,}", *times, f"{cell['ratio_p50']:.1f}"])
    return _rows(head, rows)


def _startup(cells: Sequence[Cell]) -> str:
    head = [
        "",
        "subscriptions",
        "streams after, s",
        "first event after, s",
        "against pg_recvlogical",
        "idle CPU",
        "resident",
        "peak",
    ]
    rows = []
    for cell in cells:
        times = [f"{cell['streaming_seconds']:.2f}", f"{cell['first_event_seconds']:.2f}", f"{cell['ratio']:.1f}"]
        if cell["what"] == "bridge":
            sizes = [f"{cell['resident_mib']:.0f} MiB", f"{cell['peak_mib']:.0f} MiB"]
            rows.append(["bridge", f"{cell['subscriptions']:,}", *times, f"{cell['idle_cpu_percent']:.1f} %", *sizes])
        else:
            rows.append([cell["what"], "", *times, "", "", ""])
    return _rows(head, rows)


def _number(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _rows(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
