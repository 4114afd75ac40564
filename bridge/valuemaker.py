"""The JSON of rows' values: the codec's where it can, PostgreSQL's own `to_jsonb` for the rest, many at once."""

from collections.abc import Callable, Sequence

import msgspec
import psycopg
from psycopg import sql

from bridge.change import Row, Shape
from bridge.event import Values
from bridge.judged import Cells, Judged, cells, line_of
from bridge.sql import Connection, is_transient, quoted
from bridge.table import Table
from bridge.values import Codec, Converter, size_text

Converters = dict[str, tuple[int, Callable[[bytes], bytes | None] | None]]
"""By column: its type's OID, and the codec's converter."""


_CACHED = 10_000


class Unfit(msgspec.Struct, frozen=True):
    """PostgreSQL's input functions refuse a value: the change is not one of this table as it is now."""

    reason: str


class _Wanted(msgspec.Struct, eq=False):
    """Columns of one row whose JSON PostgreSQL must make, and where it goes."""

    table: Table
    line: str
    columns: list[str]
    into: dict[str, bytes]


class ValueMaker:
    def __init__(self, connection: Connection, codec: Codec, max_record_bytes: int) -> None:
        self._connection = connection
        self._codec = codec
        self._max_record_bytes = max_record_bytes
        self._converters: dict[int, tuple[Table, Converters]] = {}
        self._shapes: dict[Shape, tuple[Table, tuple[Converter | None, ...] | None]] = {}
        """The converters of a shape's columns; None: one of them is not the table's, or of another type."""

    def make(self, rows: Sequence[Judged]) -> list[Values | Unfit]:
        """For each judged change the JSON of its values."""
        wanted: list[_Wanted] = []
        made: list[tuple[Values, list[_Wanted]]] = []
        for judged in rows:
            own: list[_Wanted] = []
            large = self._is_large(judged)
            new: dict[str, bytes] = {}
            old: dict[str, bytes] = {}
            if any(audience.error is None for audience in judged.audiences):
                if judged.is_completed:
                    new = self._row(judged.table, judged.new, own)
                elif judged.change.new is not None:
                    new = self._quick_row(judged.table, judged.change.new, own)
                if judged.change.old is not None:
                    old = self._quick_row(judged.table, judged.change.old, own)
            made.append((Values(new, old, large), own))
            wanted += own
        refused = self._ask(wanted) if wanted else {}
        if not refused:
            return [values for values, _ in made]
        results: list[Values | Unfit] = []
        for values, own in made:
            reason = next((refused[id(each)] for each in own if id(each) in refused), None)
            results.append(values if reason is None else Unfit(reason))
        return results

    def _quick_row(self, table: Table, row: Row, wanted: list[_Wanted]) -> dict[str, bytes]:
        """`_row` of what the stream carries, with what is the same for all rows of a shape decided once."""
        known = self._shapes.get(row.shape)
        if known is None or known[0] is not table:
            if len(self._shapes) >= _CACHED:
                self._shapes.clear()
            converters = self._converters_of(table)
            found = [converters.get(name) for name in row.shape.names]
            usable = all(each is not None and each[0] == oid for each, oid in zip(found, row.shape.types, strict=True))
            known = self._shapes[row.shape] = (table, tuple(each[1] for each in found if each) if usable else None)
        converts = known[1]
        if converts is None:
            return self._row(table, cells(row), wanted)
        made: dict[str, bytes] = {}
        asked: list[str] = []
        for name, convert, raw in zip(row.shape.names, converts, row.values, strict=True):
            if raw is None:
                made[name] = b"null"
            elif convert is None:
                made[name] = raw
            else:
                value = convert(raw)
                if value is None:
                    asked.append(name)
                else:
                    made[name] = value
        if asked:
            wanted.append(_Wanted(table, line_of(table, cells(row), self._codec), asked, made))
        return made

    def _row(self, table: Table, cells: Cells, wanted: list[_Wanted]) -> dict[str, bytes]:
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
            if known[0] != type_oid:  # the column's type has changed since
                asked.append(name)
                continue
            convert = known[1]
            made = raw if convert is None else convert(raw)
            if made is None:
                asked.append(name)
            else:
                found[name] = made
        if asked:
            wanted.append(_Wanted(table, line_of(table, cells, self._codec), asked, found))
        return found

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

    def _is_large(self, judged: Judged) -> bool:
        change = judged.change
        # The message is never smaller than half its values, so the exact sum is rarely needed.
        return 2 * change.message_bytes > self._max_record_bytes and (
            size_text(change, self._codec) > self._max_record_bytes
        )

    def _ask(self, wanted: Sequence[_Wanted]) -> dict[int, str]:
        """Fill in what PostgreSQL makes; by the id of what it refuses, the reason."""
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
                refused[id(group[0])] = f"{error.sqlstate}: {error}"
                return
            half = len(group) // 2
            self._ask_table(group[:half], refused)
            self._ask_table(group[half:], refused)
            return
        self._connection.execute("release savepoint making_values")
        for each, (text,) in zip(group, rows, strict=True):
            members = _decode(text.encode())
            for name in each.columns:
                each.into[name] = bytes(members[name])


_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
