"""Row level security as a join: a batch's rows with the claims of all subscribers, in one query for each branch of the
policies instead of one for each subscriber.

Only where joining.py finds that this is safe. Whatever goes wrong here, a policy that raises or a login without the
right to temporary tables, leaves the rows to rls.py, which asks for each claims value by itself and is always right.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import psycopg
import structlog

from bridge.inquiry import Inquiry
from bridge.join_queries import Rows, queries, take
from bridge.joining import Joinable, NotJoinable
from bridge.key_tables import KeyTables, NoTable
from bridge.policy_facts import PolicyFacts
from bridge.rls import SET_LIMITS, STATE, Outdated, Shared, Tampered, begin_judging, verify
from bridge.sql import Connection, is_transient
from bridge.table import Table
from bridge.tally import Tally

log = structlog.get_logger()

JOIN_FROM: Final = 4
"""With fewer claims of a table and role, asking for each by itself is cheaper."""
FEW: Final = 64
"""So many claims of a row are named one by one; where more may see it, it is joined with the role's all."""
MANY_PAIRS: Final = 250_000
"""How many answers a query should give at most: then fewer rows are asked for at once."""
LONG_SECONDS: Final = 1.0
"""And how long it should take: what runs into the time limit is wasted."""


NOBODY: Final = "!"
"""The claims while a join runs. They are not JSON: whoever still reads them raises, and the rows are asked for apart."""


BECOME: Final = """select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),
  set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"""


class JoinedJudge:
    """Shares the judging connection with the Judge."""

    def __init__(
        self,
        connection: Connection,
        catalog: Shared,
        facts: PolicyFacts,
        tally: Tally,
        *,
        join_from: int = JOIN_FROM,
        few: int = FEW,
        quiet: bool = False,
    ) -> None:
        """`quiet`: which way a table goes is not logged."""
        self._quiet = quiet
        self._catalog = catalog
        self._connection = connection
        self._facts = facts
        self._tables = KeyTables(connection)
        self._join_from = join_from
        self._few = few
        self._tally = tally
        self._room: dict[tuple[int, str], int] = {}
        """How many rows are asked for at once, by table and role; see next_room."""

    def answer(self, inquiries: Iterable[Inquiry]) -> None:
        """Answer what can be answered by a join; the rest of the inquiries stays open.

        Raises Outdated where claims have come that the snapshot lacks; psycopg.Error where it is transient.
        """
        before = self._tables.writes
        planned = self.planned(inquiries)
        if self._tables.writes != before:
            raise Outdated
        for rows in planned:
            room = self._room.get((rows.table.oid, rows.role), _first_room(rows))
            numbers = list(range(len(rows.places)))
            while numbers:
                asked, numbers = numbers[:room], numbers[room:]
                begun = time.monotonic()
                try:
                    pairs = self._answer(rows, asked)
                finally:
                    seconds = time.monotonic() - begun
                    self._tally.judged({(rows.table.schema, rows.table.name): len(asked)}, seconds)
                room = next_room(room, len(asked), pairs, seconds)
            self._room[rows.table.oid, rows.role] = room

    def planned(self, inquiries: Iterable[Inquiry]) -> list[Rows]:
        """What may be joined, with the claims in their tables; `ways` tells why the rest may not."""
        by_table: dict[tuple[int, str], list[Inquiry]] = {}
        for inquiry in inquiries:
            by_table.setdefault((inquiry.table.oid, inquiry.rights.role), []).append(inquiry)
        many = [each for each in by_table.values() if sum(one.size for one in each) >= self._join_from]
        plans = self._facts.joinables([(each[0].table, each[0].rights) for each in many]) if many else []
        found = [self._rows(each, plan) for each, plan in zip(many, plans, strict=True)]
        return [each for each in found if each is not None]

    def _rows(self, inquiries: list[Inquiry], plan: Joinable | NotJoinable) -> Rows | None:
        table, role, roster = inquiries[0].table, inquiries[0].rights.role, inquiries[0].roster
        if isinstance(plan, NotJoinable):
            self._goes(table, role, plan.reason)
            return None
        keys = None
        if plan.keys:
            try:
                keys = self._tables.current(role, roster, plan.keys, self._facts.generation)
            except NoTable as error:
                self._goes(table, role, str(error))
                return None
        self._goes(table, role, None)
        rows = Rows(table, role, roster, plan, keys)
        for inquiry in inquiries:
            numbers = [rows.number(inquiry, line, text) for text, line in inquiry.lines.items()]
            if inquiry.size > self._few:
                rows.whole.update(numbers)
            else:
                for number in numbers:
                    rows.pairs.setdefault(number, set()).update(claims.number for claims in inquiry.claims)
            if keys is not None and keys.apart:
                inquiry.apart = frozenset(each.number for each in inquiry.claims if each.number in keys.apart)
        return rows

    def _goes(self, table: Table, role: str, reason: str | None) -> None:
        """Remember which way a table goes for a role; said when it changes."""
        key, ways = (table.schema, table.name, role), self._tally.ways
        if key not in ways or ways[key] != reason:
            ways[key] = reason
            if self._quiet:
                return
            way = "by a join" if reason is None else "for each claims value by itself"
            log.info("row security is asked", way=way, schema=key[0], table=key[1], role=role, reason=reason)

    def _answer(self, rows: Rows, numbers: Sequence[int]) -> int:
        """The verdicts of these rows; how many pairs came. Where a policy raises, by halves: a row for which one does is
        left open."""
        try:
            return self._run(rows, numbers)
        except psycopg.Error as error:
            if is_transient(error):
                raise
        except Tampered:
            pass
        if len(numbers) == 1:
            return 0
        half = len(numbers) // 2
        return self._answer(rows, numbers[:half]) + self._answer(rows, numbers[half:])

    def _run(self, rows: Rows, numbers: Sequence[int]) -> int:
        connection = self._connection
        try:
            begin_judging(connection, self._catalog)
            with connection.pipeline():
                connection.execute(SET_LIMITS)
                connection.execute(BECOME, (rows.role, NOBODY))
                asked = [
                    (branch, connection.execute(query, parameters))
                    for branch, query, parameters in queries(rows, numbers)
                ]
                after = connection.execute(STATE)
            verify(rows.role, NOBODY, after.fetchone())
            self._tally.joined_rows += len(numbers)
            return take(rows, numbers, [(branch, cursor.fetchall()) for branch, cursor in asked])
        finally:
            if not connection.closed:
                connection.execute("rollback")


def _first_room(rows: Rows) -> int:
    return max(1, MANY_PAIRS // max(1, len(rows.roster.listed))) if rows.whole else MANY_PAIRS


def next_room(room: int, asked: int, pairs: int, seconds: float) -> int:
    """How many rows are to be asked for at once, after so many were. Pure.

    More only where all the room was used: few rows do not show that many would do.
    """
    if seconds > LONG_SECONDS:
        return max(1, int(asked * LONG_SECONDS / seconds))
    if pairs > MANY_PAIRS:
        return max(1, asked // 2)
    used = asked == room and pairs < MANY_PAIRS // 4 and seconds < LONG_SECONDS / 4
    return room * 2 if used else room
