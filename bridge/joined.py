"""Row level security as a join: a batch's rows with the claims of all subscribers, in one query for each branch of the
policies instead of one for each subscriber.

Only where joining.py finds that this is safe. Whatever goes wrong here, a policy that raises or a login without the
right to temporary tables, leaves the rows to rls.py, which asks for each claims value by itself and is always right.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import psycopg
import structlog
from psycopg import sql

from bridge.inquiry import Inquiry
from bridge.joining import Branch, Joinable, NotJoinable
from bridge.key_tables import ID, KeyTable, KeyTables, NoTable
from bridge.policy_facts import PolicyFacts
from bridge.pools import Roster
from bridge.rls import BEGIN_JUDGING, SET_LIMITS, STATE, Cursor, NotVisibleYet, Tampered, verify
from bridge.share import Verdict
from bridge.snapshot import Snapshot
from bridge.sql import Connection, is_transient, quoted
from bridge.table import Table

log = structlog.get_logger()

JOIN_FROM: Final = 4
"""With fewer claims of a table and role, asking for each by itself is cheaper."""
FEW: Final = 64
"""So many claims of a row are named one by one; where more may see it, it is joined with the role's all."""
MANY_PAIRS: Final = 1_000_000
"""How many answers a query should give at most: then fewer rows are asked for at once."""
LONG_SECONDS: Final = 1.0
"""And how long it should take: what runs into the time limit is wasted."""


class _Rows(msgspec.Struct, eq=False):
    """The rows of one table and role that are to be judged."""

    table: Table
    role: str
    roster: Roster
    plan: Joinable
    keys: KeyTable | None
    numbers: dict[str, int] = {}
    """Of each distinct line."""
    places: list[list[tuple[Inquiry, int]]] = []
    """By number: whose line it is, and which."""
    whole: set[int] = set()
    """Rows to be joined with all claims."""
    pairs: dict[int, set[int]] = {}
    """And those for which the claims are few, with these."""

    def number(self, inquiry: Inquiry, line: int, text: str) -> int:
        number = self.numbers.setdefault(text, len(self.numbers))
        if number == len(self.places):
            self.places.append([])
        self.places[number].append((inquiry, line))
        return number


class JoinedJudge:
    """Shares the judging connection with the Judge."""

    def __init__(
        self, connection: Connection, facts: PolicyFacts, *, join_from: int = JOIN_FROM, few: int = FEW
    ) -> None:
        self._connection = connection
        self._facts = facts
        self._tables = KeyTables(connection)
        self._join_from = join_from
        self._few = few
        self.ways: dict[tuple[str, str, str], str | None] = {}
        """By schema, table and role with enough claims for a join: why there is none; None: there is one."""
        self.rows = 0
        """How many rows were judged by a join."""
        self._room: dict[tuple[int, str], int] = {}
        """How many rows are asked for at once, by table and role; see next_room."""

    def answer(self, inquiries: Iterable[Inquiry], xids: Iterable[int]) -> None:
        """Answer what can be answered by a join; the rest of the inquiries stays open.

        Raises NotVisibleYet; psycopg.Error where it is transient.
        """
        wanted = frozenset(xids)
        for rows in self._planned(inquiries):
            room = self._room.get((rows.table.oid, rows.role), _first_room(rows))
            numbers = list(range(len(rows.places)))
            while numbers:
                asked, numbers = numbers[:room], numbers[room:]
                begun = time.monotonic()
                pairs = self._answer(rows, asked, wanted)
                room = next_room(room, len(asked), pairs, time.monotonic() - begun)
            self._room[rows.table.oid, rows.role] = room

    def _planned(self, inquiries: Iterable[Inquiry]) -> list[_Rows]:
        by_table: dict[tuple[int, str], list[Inquiry]] = {}
        for inquiry in inquiries:
            by_table.setdefault((inquiry.table.oid, inquiry.rights.role), []).append(inquiry)
        many = [each for each in by_table.values() if sum(one.size for one in each) >= self._join_from]
        plans = self._facts.joinables([(each[0].table, each[0].rights) for each in many]) if many else []
        found = [self._rows(each, plan) for each, plan in zip(many, plans, strict=True)]
        return [each for each in found if each is not None]

    def _rows(self, inquiries: list[Inquiry], plan: Joinable | NotJoinable) -> _Rows | None:
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
        rows = _Rows(table, role, roster, plan, keys)
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
        key = (table.schema, table.name, role)
        if key not in self.ways or self.ways[key] != reason:
            self.ways[key] = reason
            way = "by a join" if reason is None else "for each claims value by itself"
            log.info("row security is asked", way=way, schema=key[0], table=key[1], role=role, reason=reason)

    def _answer(self, rows: _Rows, numbers: Sequence[int], xids: frozenset[int]) -> int:
        """The verdicts of these rows; how many pairs came. Where a policy raises, by halves: a row for which one does is
        left open."""
        try:
            return self._run(rows, numbers, xids)
        except psycopg.Error as error:
            if is_transient(error):
                raise
        except Tampered:
            pass
        if len(numbers) == 1:
            return 0
        half = len(numbers) // 2
        return self._answer(rows, numbers[:half], xids) + self._answer(rows, numbers[half:], xids)

    def _run(self, rows: _Rows, numbers: Sequence[int], xids: frozenset[int]) -> int:
        connection = self._connection
        try:
            with connection.pipeline():
                connection.execute(BEGIN_JUDGING)
                snapshot = connection.execute("select pg_current_snapshot()::text")
                connection.execute(SET_LIMITS)
                # Whoever still read the claims here would read nobody's: an object without members.
                connection.execute(
                    "select set_config('role', %s, true), set_config('request.jwt.claims', '{}', true),"
                    " set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)",
                    (rows.role,),
                )
                asked = [each for branch in rows.plan.branches for each in self._ask(rows, numbers, branch)]
                after = connection.execute(STATE)
            row = snapshot.fetchone()
            if row is None or not all(map(Snapshot.parse(row[0]).contains, xids)):
                raise NotVisibleYet
            verify(rows.role, "{}", after.fetchone())
            self.rows += len(numbers)
            return _take(rows, numbers, asked)
        finally:
            if not connection.closed:
                connection.execute("rollback")

    def _ask(self, rows: _Rows, numbers: Sequence[int], branch: Branch) -> list[tuple[Branch, Cursor]]:
        """The queries of one branch of the policies: who it shows which of the rows."""
        texts = list(rows.numbers)
        execute = self._connection.execute
        condition = _condition(branch)
        if not branch.by_claims:
            query = sql.SQL("select _walrus_rows._walrus_n from {rows} where {condition}")
            lines = [texts[number] for number in numbers]
            return [(branch, execute(_made(query, rows, condition), {"lines": lines, "numbers": list(numbers)}))]
        whole = [number for number in numbers if number in rows.whole]
        few = [(number, each) for number in numbers for each in rows.pairs.get(number, ())]
        if not branch.by_row:
            query = sql.SQL("select {id} from {claims} where (%(all)s or {id} = any (%(few)s)) and {condition}")
            some = list({each for _, each in few})
            return [(branch, execute(_made(query, rows, condition), {"all": bool(whole), "few": some}))]
        asked = []
        if whole:
            query = sql.SQL("select _walrus_rows._walrus_n, {id} from {rows} cross join {claims} where {condition}")
            lines = [texts[number] for number in whole]
            asked.append((branch, execute(_made(query, rows, condition), {"lines": lines, "numbers": whole})))
        if few:
            query = sql.SQL(
                "select _walrus_rows._walrus_n, {id} from {rows}"
                " join unnest(%(of)b::int4[], %(for)b::int4[]) as _walrus_pairs (_walrus_n, _walrus_id)"
                " on _walrus_pairs._walrus_n = _walrus_rows._walrus_n"
                " join {claims} on {id} = _walrus_pairs._walrus_id where {condition}"
            )
            named = sorted({number for number, _ in few})
            parameters = {
                "lines": [texts[number] for number in named],
                "numbers": named,
                "of": [number for number, _ in few],
                "for": [each for _, each in few],
            }
            asked.append((branch, execute(_made(query, rows, condition), parameters)))
        return asked


def _first_room(rows: _Rows) -> int:
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


def _condition(branch: Branch) -> sql.Composable:
    return sql.SQL(f"({branch.condition.replace('%', '%%')})")


def _made(query: sql.SQL, rows: _Rows, condition: sql.Composable) -> sql.Composed:
    """A policy's column names are unqualified or qualified by the table's name, so the row's FROM item carries that name;
    nothing else here has a name that a policy could mean."""
    table = quoted(rows.table.schema, rows.table.name)
    row = sql.SQL(
        "unnest(%(lines)b::text[], %(numbers)b::int4[]) as _walrus_rows (_walrus_line, _walrus_n)"
        " cross join lateral unnest(array[_walrus_rows._walrus_line::{table}]) as {alias}"
    ).format(table=table, alias=quoted(rows.table.name))
    claims = (
        sql.SQL("{} as _walrus_claims").format(rows.keys.identifier)
        if rows.keys is not None
        else sql.SQL("(values (0))")
    )
    return query.format(rows=row, claims=claims, condition=condition, id=sql.Identifier("_walrus_claims", ID))


def _take(rows: _Rows, numbers: Sequence[int], asked: Sequence[tuple[Branch, Cursor]]) -> int:
    """Put the answers together: a row is shown to whomever any branch shows it."""
    everyone: set[int] = set()
    shared: set[int] = set()
    own: dict[int, set[int]] = {}
    pairs = 0
    for branch, cursor in asked:
        found = cursor.fetchall()
        pairs += len(found)
        if not branch.by_claims:
            everyone.update(number for (number,) in found)
        elif not branch.by_row:
            shared.update(each for (each,) in found)
        else:
            for number, each in found:
                own.setdefault(number, set()).add(each)
    to_all = frozenset(shared)
    for number in numbers:
        verdict = Verdict(number in everyone, to_all, own.get(number, ()))
        for inquiry, line in rows.places[number]:
            inquiry.joined[line] = verdict
    return pairs
