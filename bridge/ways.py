"""Which way row security goes for each table and each role that subscribes to it: what `check` and `explain` tell.

Asked of the very parts that judge, with rows that are made up, so that what is told is what a bridge does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from bridge.catalog import Catalog
from bridge.change import DELETE, INSERT, UPDATE, Kind
from bridge.inquiry import AS_RECORDED, Inquiry, Way
from bridge.join_queries import Rows
from bridge.joined import JOIN_FROM, JoinedJudge
from bridge.policy_facts import PolicyFacts
from bridge.pools import Bucket, Claims, Roster
from bridge.rls import Question
from bridge.securing import way_of
from bridge.sql import Connection
from bridge.subscriptions import Subscriptions
from bridge.table import Rights, Table

MANY_CLAIMS: Final = 100
"""From so many distinct claims on it matters that each is asked for by itself."""
BATCH_ROWS: Final = 100
"""How many rows are made up: a batch's under load."""

Outcome = Literal["open", "exempt", "nobody", "joined", "single"]


class Subscribers(msgspec.Struct, frozen=True, eq=False):
    """One role's subscriptions to one table."""

    roster: Roster
    buckets: tuple[Bucket, ...]
    subscriptions: int
    claims: frozenset[Claims]
    """The distinct ones."""


class Found(msgspec.Struct, frozen=True, eq=False):
    """Which way a table goes for a role."""

    table: Table
    rights: Rights
    subscribers: Subscribers
    kind: Outcome
    reason: str | None = None
    """Why, unless it is joined."""
    way: Way = AS_RECORDED
    rows: Rows | None = None
    """What is joined."""

    @property
    def label(self) -> str:
        return f"{self.table.schema}.{self.table.name}"

    @property
    def is_slow(self) -> bool:
        """Each of many claims is asked for by itself."""
        return self.kind == "single" and len(self.subscribers.claims) >= MANY_CLAIMS

    @property
    def joins_now(self) -> bool:
        """There are claims enough for the join that is possible."""
        return self.kind == "joined" and len(self.subscribers.claims) >= JOIN_FROM

    def question(self) -> Question:
        """What is asked for one claims value by itself; its claims are made up, and name the role only."""
        rights, way = self.rights, self.way
        claims = msgspec.json.encode({"role": rights.role}).decode()
        return Question(
            self.table, rights.policies, rights.role, claims, LINES, way.absent, way.current, way.record, way.same
        )


LINES: Final = tuple(f"({number})" for number in range(BATCH_ROWS))
"""Rows, as texts that nobody reads: planning a query does not look into them."""


class Ways:
    """On a source connection with the catalog's settings, and a judging one."""

    def __init__(self, source: Connection, judging: Connection, *, current: bool) -> None:
        """`current`: as ``judge: current`` says."""
        self._catalog = Catalog(source)
        self._joined = JoinedJudge(judging, self._catalog.export, PolicyFacts(source), join_from=0)
        self._current = current

    def look(self, wanted: Mapping[int, Sequence[Subscribers]]) -> list[Found]:
        """For each table (by OID) and those who subscribe to it; a role or a table that is gone is left out."""
        self._catalog.begin()
        try:
            return self._look(wanted)
        finally:
            self._catalog.end()

    def _look(self, wanted: Mapping[int, Sequence[Subscribers]]) -> list[Found]:
        tables = self._catalog.tables(wanted)
        pairs = [(oid, each.roster.role) for oid in tables for each in wanted[oid]]
        rights = self._catalog.rights(pairs) if pairs else {}
        asked = [
            (tables[oid], rights[oid, each.roster.role], each)
            for oid in tables
            for each in wanted[oid]
            if (oid, each.roster.role) in rights
        ]
        asked.sort(key=lambda each: (each[0].schema, each[0].name, each[1].role))
        inquiries = [_inquiry(*each) for each in asked if _is_judged(each[1])]
        planned = {(rows.table.oid, rows.role): rows for rows in self._joined.planned(inquiries)}
        return [self._found(*each, planned.get((each[0].oid, each[1].role))) for each in asked]

    def _found(self, table: Table, rights: Rights, subscribers: Subscribers, rows: Rows | None) -> Found:
        if not rights.rls_enabled:
            return Found(table, rights, subscribers, "open", "the table has no row level security")
        if not rights.subject:
            return Found(table, rights, subscribers, "exempt", "a superuser, BYPASSRLS, or an owner without FORCE")
        if not rights.usage:
            return Found(table, rights, subscribers, "nobody", f"it may not use the schema {table.schema}")
        if not any(policy.permissive for policy in rights.policies):
            return Found(table, rights, subscribers, "nobody", "no permissive policy for SELECT applies to it")
        way = way_of(table, rights, set(table.names), frozenset(), current=self._current)
        if way is None:
            reason = "its policies need the current row, which it may not SELECT enough of"
            return Found(table, rights, subscribers, "nobody", reason)
        if way == AS_RECORDED and rows is not None:
            return Found(table, rights, subscribers, "joined", way=way, rows=rows)
        told = self._joined.ways.get((table.schema, table.name, rights.role))
        why = "rls.judge is current: PostgreSQL judges the row as it is now" if self._current else told
        return Found(table, rights, subscribers, "single", why, way)


def _is_judged(rights: Rights) -> bool:
    return rights.subject and rights.usage and any(policy.permissive for policy in rights.policies)


def _inquiry(table: Table, rights: Rights, subscribers: Subscribers) -> Inquiry:
    inquiry = Inquiry(table, rights, subscribers.roster, AS_RECORDED, subscribers.buckets)
    inquiry.lines.update({line: number for number, line in enumerate(LINES)})
    return inquiry


def subscribers_of(subscriptions: Subscriptions, entity: int) -> list[Subscribers]:
    """By role; those of all actions and filters, as if every filter passed."""
    rosters: dict[int, Roster] = {}
    buckets: dict[int, dict[Bucket, None]] = {}
    actions: tuple[Kind, ...] = (INSERT, UPDATE, DELETE)
    for action in actions:
        for group in subscriptions.groups(entity, action):
            role = group.roster.role
            rosters[role] = group.roster
            found = (each for _, pools in group.selections for pool in pools for each in pool.buckets())
            buckets.setdefault(role, {}).update(dict.fromkeys(found))
    return [_subscribers(roster, buckets[role]) for role, roster in rosters.items()]


def _subscribers(roster: Roster, buckets: Iterable[Bucket]) -> Subscribers:
    every = tuple(buckets)
    return Subscribers(
        roster,
        every,
        sum(len(each) for bucket in every for each in bucket.by_claims.values()),
        frozenset(claims for bucket in every for claims in bucket.by_claims),
    )
