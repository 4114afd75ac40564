"""What `walrus-bridge explain` prints. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bridge.joined import JOIN_FROM
from bridge.table import Policy
from bridge.ways import BATCH_ROWS, MANY_CLAIMS, Found

_ESTIMATE: Final = re.compile(r"cost=[\d.]+\.\.([\d.]+) rows=(\d+)")


class Query(msgspec.Struct, frozen=True):
    text: str
    plan: tuple[str, ...]
    problem: str | None
    """Why there is no plan."""
    reads: str = ""
    """Of a branch: what its condition is about."""

    @property
    def estimate(self) -> tuple[float, int] | None:
        """PostgreSQL's cost, and how many rows it expects."""
        match = _ESTIMATE.search(self.plan[0]) if self.plan else None
        return None if match is None else (float(match[1]), int(match[2]))


class Explained(msgspec.Struct, frozen=True):
    found: Found
    queries: list[Query]
    hints: list[str]


def lines(explained: Sequence[Explained], gone: int) -> Iterator[str]:
    for number, each in enumerate(explained):
        if number:
            yield ""
        yield from _role(each)
    if gone:
        yield ""
        yield f"{_count(gone, 'subscription')} of roles that are not there get nothing"


def _role(explained: Explained) -> Iterator[str]:
    found = explained.found
    rights, subscribers = found.rights, found.subscribers
    claims = len(subscribers.claims)
    yield f"{found.label} for the role {rights.role}: {_way(found)}"
    if subscribers.subscriptions:
        yield _row("subscribers", f"{_count(subscribers.subscriptions, 'subscription')}, {_distinct(claims)}")
    else:
        yield _row("subscribers", "none; explained for claims that hold the role only")
    if found.reason is not None:
        yield _row("why", found.reason)
    if found.kind in {"open", "exempt", "nobody"}:
        yield _row("cost", "none: nothing is asked")
        return
    yield _row("policies", ", ".join(map(_policy, rights.policies)))
    if found.rows is not None:
        keys = found.rows.plan.keys
        yield _row("keys", "; ".join(keys) or "none")
    if found.kind == "single" and not found.way.record:
        yield _row("judges", "the current row, by PostgreSQL itself")
    elif found.way.current:
        yield _row("judges", "the recorded row, and the current one, which must pass too")
    yield _row("cost", _cost(explained))
    for number, query in enumerate(explained.queries, 1):
        yield ""
        of = f" {number} of {len(explained.queries)}" if len(explained.queries) > 1 else ""
        yield f"  query{of}" + (f", about {query.reads}" if query.reads else "")
        yield f"    {query.text}"
        yield f"  its plan for {BATCH_ROWS} rows"
        yield from (f"    {line}" for line in query.plan)
        if query.problem is not None:
            yield f"    PostgreSQL cannot plan it: {query.problem}"
    if explained.hints:
        yield ""
        yield "  hints"
        yield from (f"    → {hint}" for hint in explained.hints)


def _way(found: Found) -> str:
    if found.kind == "joined":
        few = (
            "" if found.joins_now else f", from {JOIN_FROM} distinct claims on (each is asked for by itself until then)"
        )
        return f"as a join of all claims{few}"
    return {
        "open": "not subject to row level security",
        "exempt": "not subject to row level security",
        "nobody": "row level security shows nothing",
        "single": "for each claims value by itself",
    }[found.kind]


def _policy(policy: Policy) -> str:
    return policy.name if policy.permissive else f"{policy.name} (restrictive)"


def _cost(explained: Explained) -> str:
    found = explained.found
    claims = len(found.subscribers.claims)
    estimates = [query.estimate for query in explained.queries]
    known = [each for each in estimates if each is not None]
    decisions = f"{BATCH_ROWS * claims:,} decisions for {BATCH_ROWS} rows"
    expected = f"PostgreSQL's estimate {sum(cost for cost, _ in known):,.0f}" if known else "no estimate"
    if found.kind == "joined" and found.joins_now:
        answers = f", {_count(sum(rows for _, rows in known), 'answer')}" if known else ""
        return f"{decisions}, in {_queries(len(estimates))} a batch whatever the number of claims; {expected}{answers}"
    slow = f"; slow, for there are {MANY_CLAIMS} or more" if claims >= MANY_CLAIMS else ""
    each = " each" if claims != 1 else ""
    if found.kind == "joined":
        return f"{decisions}, in {_queries(claims)} a batch, one for each claims value"
    return f"{decisions}, in {_queries(claims)} a batch, one for each claims value; {expected}{each}{slow}"


def _row(name: str, what: str) -> str:
    return f"  {name:12}{what}"


def _distinct(claims: int) -> str:
    return f"{claims:,} distinct claims"


def _queries(number: int) -> str:
    return f"{number:,} {'query' if number == 1 else 'queries'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
