"""What we want to reach on two cores with the real broker beside, against what was measured. Pure."""

from collections.abc import Iterator
from typing import Any

Results = dict[str, Any]
Goal = tuple[str, str, str, bool]
"""What, the goal, what was measured, and whether that reaches it."""


def goals(results: Results) -> list[Goal]:
    return [*_throughput(results), *_row_security(results), *_latency(results), *_rest(results)]


def _throughput(results: Results) -> Iterator[Goal]:
    cells = [cell for cell in results.get("throughput", ()) if cell["transport"] == "TCP" and "ratio" in cell]
    for plugin, goal in (("wal2json", {1: 1.0, 1_000: 0.75}), ("pgoutput", {1: 0.9, 1_000: 0.5})):
        for cell in cells:
            if (cell["to"], cell["plugin"]) == ("kafka", plugin):
                size = cell["rows_per_transaction"]
                what = f"{plugin} to Kafka over TCP, {size:,}-row transactions, of pg_recvlogical"
                yield _at_least(what, goal[size], cell["ratio"])
    bare = [cell["ratio"] for cell in cells if cell["against"] == "bare publisher"]
    if bare:
        yield _at_least("RabbitMQ, of a bare publisher, the lowest", 0.9, min(bare))


def _row_security(results: Results) -> Iterator[Goal]:
    found = {
        cell["policy"]: cell
        for cell in results.get("rls", ())
        if cell["subscribers"] == 10_000 and "us_per_change" in cell
    }
    for policy, most in (("owner", 30), ("membership", 60)):
        if policy in found:
            what = f"1,000 changes for 10,000 claims, {policy}, ms"
            yield _at_most(what, most, found[policy]["us_per_change"])
    rates = [cell["changes_per_second"] for policy, cell in found.items() if policy != "not rewritable"]
    if rates:
        yield _at_least("changes a second at 10,000 subscribers, the lowest where it is joined", 5_000, min(rates))


def _latency(results: Results) -> Iterator[Goal]:
    wanted = {("stdout", False): (1, 5), ("stdout", True): (2, 5), ("kafka", False): (4, 15)}
    for cell in results.get("latency", ()):
        most = wanted.get((cell["to"], cell["rls"]))
        if most is not None and cell["rate"] == 200 and not cell.get("capped"):
            to = f"commit to {cell['to']}{', RLS' if cell['rls'] else ''}, 200 changes a second"
            yield _at_most(f"{to}, p50, ms", most[0], cell["p50_ms"])
            yield _at_most(f"{to}, p99, ms", most[1], cell["p99_ms"])


def _rest(results: Results) -> Iterator[Goal]:
    for cell in results.get("startup", ()):
        if cell["what"] == "bridge":
            if cell["subscriptions"] == 1:
                yield _at_most("start to first event, s", 0.7, cell["first_event_seconds"])
            most = {1_000: 100, 100_000: 400}.get(cell["subscriptions"])
            if most is not None:
                yield _at_most(f"resident, {cell['subscriptions']:,} subscriptions, MiB", most, cell["resident_mib"])


def _at_least(what: str, goal: float, found: float) -> Goal:
    return what, f"at least {goal:,}", _number(found), found >= goal


def _at_most(what: str, goal: float, found: float) -> Goal:
    return what, f"under {goal:,}", _number(found), found < goal


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"
