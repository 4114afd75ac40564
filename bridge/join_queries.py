"""The queries of a join, and what their answers mean. Pure; joined.py asks them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from bridge.inquiry import Inquiry
from bridge.joining import Branch, Joinable
from bridge.key_tables import ID, KeyTable
from bridge.pools import Roster
from bridge.share import Verdict
from bridge.sql import quoted
from bridge.table import Table

Parameters = Mapping[str, Any]


class Rows(msgspec.Struct, eq=False):
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


def queries(rows: Rows, numbers: Sequence[int]) -> Iterator[tuple[Branch, sql.Composed, Parameters]]:
    """For each branch of the policies: who it shows which of these rows. Gives (row), (claims) or (row, claims), as the
    branch reads them."""
    texts = list(rows.numbers)
    whole = [number for number in numbers if number in rows.whole]
    few = [(number, each) for number in numbers for each in rows.pairs.get(number, ())]
    for branch in rows.plan.branches:
        if not branch.by_claims:
            query = sql.SQL("select _walrus_rows._walrus_n from {rows} where {condition}")
            yield branch, _made(query, rows, branch), _rows_of(texts, numbers)
        elif not branch.by_row:
            query = sql.SQL("select {id} from {claims} where (%(all)s or {id} = any (%(few)s)) and {condition}")
            yield branch, _made(query, rows, branch), {"all": bool(whole), "few": list({each for _, each in few})}
        else:
            if whole:
                query = sql.SQL(
                    "{select} _walrus_rows._walrus_n, {id} from {rows} cross join {claims}{lateral} where {condition}"
                )
                yield branch, _made(query, rows, branch), _rows_of(texts, whole)
            if few:
                query = sql.SQL(
                    "{select} _walrus_rows._walrus_n, {id} from {rows}"
                    " join unnest(%(of)b::int4[], %(for)b::int4[]) as _walrus_pairs (_walrus_n, _walrus_id)"
                    " on _walrus_pairs._walrus_n = _walrus_rows._walrus_n"
                    " join {claims} on {id} = _walrus_pairs._walrus_id{lateral} where {condition}"
                )
                pairs = {"of": [number for number, _ in few], "for": [each for _, each in few]}
                yield branch, _made(query, rows, branch), pairs | _rows_of(texts, sorted({n for n, _ in few}))


def _rows_of(texts: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
    return {"lines": [texts[number] for number in numbers], "numbers": list(numbers)}


def _raw(text: str) -> sql.SQL:
    """As PostgreSQL's parser prints it; its percent signs would be placeholders in a query that has parameters."""
    return sql.SQL(text.replace("%", "%%"))


def _made(query: sql.SQL, rows: Rows, branch: Branch) -> sql.Composed:
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
    return query.format(
        select=_raw("select distinct" if branch.joins else "select"),
        rows=row,
        claims=claims,
        lateral=_raw(branch.lateral),
        condition=_raw(f"({branch.condition})"),
        id=sql.Identifier("_walrus_claims", ID),
    )


def take(rows: Rows, numbers: Sequence[int], answers: Sequence[tuple[Branch, list[tuple[int, ...]]]]) -> int:
    """Put the answers together: a row is shown to whomever any branch shows it. Gives how many answers came."""
    everyone: set[int] = set()
    shared: set[int] = set()
    own: dict[int, set[int]] = {}
    pairs = 0
    for branch, found in answers:
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
