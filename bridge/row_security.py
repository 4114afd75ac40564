"""Which way row level security goes for the roles that subscribe to a table: for `check` and `explain`."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bridge.catalog import Catalog
from bridge.change import DELETE, INSERT, UPDATE
from bridge.inquiry import AS_RECORDED, Inquiry, Way
from bridge.join_queries import Rows
from bridge.joined import JoinedJudge
from bridge.policy_facts import PolicyFacts
from bridge.pools import Bucket, Group
from bridge.securing import way_of
from bridge.sql import Connection
from bridge.subscriptions import Subscriptions
from bridge.table import Rights, Table
from bridge.tally import Tally

BATCH: Final = 1000
"""So many rows are planned for."""
LINES: Final = tuple(f"({number})" for number in range(BATCH))
"""Rows that are made up, as texts that nobody reads: planning does not look into them. To read the table's own would run its
policies, on whatever login reads them."""


class RoleWay(msgspec.Struct, frozen=True, eq=False):
    """One role that subscribes to a table."""

    table: Table
    rights: Rights
    subscriptions: int
    claims: list[str]
    """Its distinct claims."""
    rows: Rows | None
    """What is joined; None: each claims value is asked for by itself, or row security does not apply."""
    reason: str | None
    """Why there is no join."""
    role: int
    """OID"""
    way: Way | None
    """How a row is judged that carries all columns; None: nobody may see it."""


class Looking:
    """Both connections, as the bridge uses them, for as long as a command looks."""

    def __init__(self, source: Connection, judging: Connection, *, current: bool) -> None:
        """`current`: as ``judge: current`` says."""
        self._current = current
        self.catalog = Catalog(source)
        self.judging = judging
        self._source = source
        self._tally = Tally()
        facts = PolicyFacts(self.catalog)
        self._joined = JoinedJudge(judging, self.catalog, facts, self._tally, join_from=1, few=0, quiet=True)
        self._subscriptions = Subscriptions()

    def subscribed(self) -> list[int]:
        """Read the subscriptions; the OIDs of their tables."""
        self._subscriptions.load(self._source)
        return list(self._subscriptions.entities())

    def names(self) -> list[tuple[str, str]]:
        """The subscribed tables' names (schema, table)."""
        return self._subscriptions.tables()

    def find(self, schema: str, table: str) -> int | None:
        """The OID of a table by its name."""
        self.catalog.begin()
        try:
            (found,) = self.catalog.look_up([(schema, table, None)])
        finally:
            self.catalog.end()
        return found.oid if found else None

    def ways(self, oids: Iterable[int]) -> list[RoleWay]:
        """For each of these tables and each role that subscribes to it; in the order of names. Roles that are gone are
        left out."""
        groups = {
            (oid, each.roster.role): self._groups(oid, each.roster.role) for oid in oids for each in self._all(oid)
        }
        self.catalog.begin()
        try:
            tables = self.catalog.tables({oid for oid, _ in groups})
            rights = self.catalog.rights(list(groups))
            found = [
                self._way(tables[oid], rights[oid, role], groups[oid, role])
                for oid, role in groups
                if oid in tables and (oid, role) in rights
            ]
        finally:
            self.catalog.end()
        return sorted(found, key=lambda way: (way.table.schema, way.table.name, way.rights.role))

    def _all(self, oid: int) -> list[Group]:
        return [group for kind in (INSERT, UPDATE, DELETE) for group in self._subscriptions.groups(oid, kind)]

    def _groups(self, oid: int, role: int) -> list[Group]:
        return [group for group in self._all(oid) if group.roster.role == role]

    def _way(self, table: Table, rights: Rights, groups: Sequence[Group]) -> RoleWay:
        pools = {id(pool): pool for group in groups for _, those in group.selections for pool in those}
        buckets: list[Bucket] = [bucket for pool in pools.values() for bucket in pool.buckets()]
        count = sum(len(each) for bucket in buckets for each in bucket.by_claims.values())
        inquiry = Inquiry(table, rights, groups[0].roster, AS_RECORDED, buckets)
        inquiry.lines.update((line, number) for number, line in enumerate(LINES))
        claims = [each.text for each in inquiry.claims]
        role, way = groups[0].roster.role, way_of(table, rights, set(table.names), frozenset(), current=self._current)
        if not rights.subject or way is None:
            return RoleWay(table, rights, count, claims, None, None, role, way)
        planned = self._joined.planned([inquiry])
        reason = self._tally.ways.get((table.schema, table.name, rights.role))
        if self._current:
            planned, reason = [], "rls.judge is current: PostgreSQL judges the row as it is now"
        return RoleWay(table, rights, count, claims, planned[0] if planned else None, reason, role, way)
