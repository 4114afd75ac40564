"""The JSON of rows' values: the codec's where it can, PostgreSQL's own `to_jsonb` for the rest, many at once."""

from collections.abc import Callable, Sequence

import msgspec
import psycopg
from psycopg import sql

from bridge.change import UPDATE, Row, Shape
from bridge.event import NO_ROW, Json, Values
from bridge.judged import Cells, Judged, cells, line_of, missing_key
from bridge.sql import Connection, is_transient, quoted
from bridge.table import Table
from bridge.values import Codec, Converter, size_text

Converters = dict[str, tuple[int, Callable[[bytes], bytes | None] | None]]
"""By column: its type's OID, and the codec's converter."""


_CACHED = 10_000


class Unfit(msgspec.Struct, frozen=True):
    """A key column is missing, or PostgreSQL's input functions refuse a value: the change is not one of this table as it
    is now."""

    reason: str


class _Wanted(msgspec.Struct, eq=False):
    """Columns of one row whose JSON PostgreSQL must make, and where it goes."""

    table: Table
    line: str
    positions: list[int]
    into: list[bytes]
    names: tuple[str, ...]
    number: int = 0
    """Of the change."""


class ValueMaker:
    def __init__(self, connection: Connection, codec: Codec, max_record_bytes: int) -> None:
        self._connection = connection
        self._codec = codec
        self._max_record_bytes = max_record_bytes
        self._converters: dict[int, tuple[Table, Converters]] = {}
        self._shapes: dict[Shape, tuple[Table, tuple[tuple[int, Converter], ...] | None]] = {}
        """The converters of a shape's columns, by position, where they need one; None: one of the columns is not the
        table's, or of another type."""

    def make(self, rows: Sequence[Judged | None]) -> list[Values | Unfit | None]:
        """For each judged change the JSON of its values; None for None."""
        wanted: list[_Wanted] = []
        made: list[Values | Unfit | None] = []
        for judged in rows:
            if judged is None:
                made.append(None)
                continue
            change, table = judged.change, judged.table
            if (missing := missing_key(change, table)) is not None:
                made.append(Unfit(f"it has no value for the key column {missing}"))
                continue
            before = len(wanted)
            new = old = NO_ROW
            for audience in judged.audiences:
                if audience.error is None:
                    if change.kind == UPDATE and judged.is_completed:
                        new = self._row(table, judged.new, wanted)
                    elif change.new is not None:
                        new = self._quick_row(table, change.new, wanted)
                    if change.old is not None:
                        old = self._quick_row(table, change.old, wanted)
                    break
            for each in wanted[before:]:
                each.number = len(made)
            # The message is never smaller than half its values, so the exact sum is rarely needed.
            large = 2 * change.message_bytes > self._max_record_bytes and (
                size_text(change, self._codec) > self._max_record_bytes
            )
            made.append(Values(new, old, large))
        if wanted:
            for number, reason in self._ask(wanted).items():
                made[number] = Unfit(reason)
        return made

    def _quick_row(self, table: Table, row: Row, wanted: list[_Wanted]) -> Json:
        """`_row` of what the stream carries, with what is the same for all rows of a shape decided once."""
        known = self._shapes.get(row.shape)
        if known is None or known[0] is not table:
            if len(self._shapes) >= _CACHED:
                self._shapes.clear()
            converters = self._converters_of(table)
            found = [converters.get(name) for name in row.shape.names]
            usable = all(each is not None and each[0] == oid for each, oid in zip(found, row.shape.types, strict=True))
            needed = tuple((at, each[1]) for at, each in enumerate(found) if each is not None and each[1] is not None)
            known = self._shapes[row.shape] = (table, needed if usable else None)
        converts = known[1]
        if converts is None:
            return self._row(table, cells(row), wanted)
        values, names = row.values, row.shape.names
        made = [b"null" if raw is None else raw for raw in values]
        asked: list[int] = []
        for at, convert in converts:
            if (raw := values[at]) is not None:
                if (value := convert(raw)) is None:
                    asked.append(at)
                else:
                    made[at] = value
        if asked:
            wanted.append(_Wanted(table, line_of(table, cells(row), self._codec), asked, made, names))
        return Json(names, made)

    def _row(self, table: Table, cells: Cells, wanted: list[_Wanted]) -> Json:
        found: dict[str, bytes] = {}
        asked: list[str] = []
        converters = self._converters_of(table)
        for name, (raw, type_oid) in cells.items():
            if raw is None:
                if name in converters:
                    found[name] = b"null"
                continue
            known = converters.get(name)
            if known is None:
                continue
            convert = known[1]
            # Another type: the column's has changed since.
            made = None if known[0] != type_oid else raw if convert is None else convert(raw)
            if made is None:
                asked.append(name)
            found[name] = raw if made is None else made
        names, values = tuple(found), list(found.values())
        if asked:
            positions = [names.index(name) for name in asked]
            wanted.append(_Wanted(table, line_of(table, cells, self._codec), positions, values, names))
        return Json(names, values)

    def _converters_of(self, table: Table) -> Converters:
        known = self._converters.get(table.oid)
        if known is None or known[0] is not table:
            known = self._converters[table.oid] = (
                table,
                {
                    column.name: (column.type_oid, self._codec.json_converter(column, column.type_oid))
                    for column in table.columns
                },
            )
        return known[1]

    def _ask(self, wanted: Sequence[_Wanted]) -> dict[int, str]:
        """Fill in what PostgreSQL makes; by the change's number, the reason why it refuses one."""
        refused: dict[int, str] = {}
        by_table: dict[int, list[_Wanted]] = {}
        for each in wanted:
            by_table.setdefault(each.table.oid, []).append(each)
        for group in by_table.values():
            self._ask_table(group, refused)
        return refused

    def _ask_table(self, group: Sequence[_Wanted], refused: dict[int, str]) -> None:
        """All rows of a table at once; where one is refused, by halves."""
        table = group[0].table
        query = sql.SQL(
            "select to_jsonb(w.line::{})::text from unnest(%b::text[]) with ordinality as w (line, n) order by w.n"
        ).format(quoted(table.schema, table.name))
        self._connection.execute("savepoint making_values")
        try:
            rows = self._connection.execute(query, ([each.line for each in group],)).fetchall()
        except psycopg.Error as error:
            if is_transient(error):
                raise
            self._connection.execute("rollback to savepoint making_values; release savepoint making_values")
            if len(group) == 1:
                refused.setdefault(group[0].number, f"{error.sqlstate}: {error}")
                return
            half = len(group) // 2
            self._ask_table(group[:half], refused)
            self._ask_table(group[half:], refused)
            return
        self._connection.execute("release savepoint making_values")
        for each, (text,) in zip(group, rows, strict=True):
            members = _decode(text.encode())
            for at in each.positions:
                each.into[at] = bytes(members[each.names[at]])


_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
