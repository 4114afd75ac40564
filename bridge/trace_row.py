"""For `walrus-bridge trace`: a row's changes in the WAL that is kept, or the row as it is now."""

from collections.abc import Callable, Sequence

import msgspec
import psycopg
from psycopg import sql

from bridge.change import UPDATE, Change, Row, Shape, Transaction
from bridge.errors import SourceRefused
from bridge.judged import cells
from bridge.past import open_past
from bridge.patterns import streams
from bridge.replication import ReplicationStream
from bridge.session import SourceSettings
from bridge.sql import Connection, first_line, quoted
from bridge.table import Table
from bridge.values import Codec
from bridge.writer import EventWriter

# The table itself and its partitions.
_NAMES = """
select s.nspname, c.relname from pg_class c join pg_namespace s on s.oid = c.relnamespace
where c.oid = %(oid)s or c.oid in (select relid from pg_partition_tree(%(oid)s::oid))
"""

_TYPES = """
select a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute a
where a.attrelid = %s and a.attname = any (%s)
"""

_NOW = """
select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::int8
"""


Progress = Callable[[int], None]
"""Called now and then with the LSN that has been read."""


def as_stored(source: Connection, table: Table, key: dict[str, str]) -> dict[str, str]:
    """The key's values as PostgreSQL writes them: 007 of an integer is 7."""
    types = dict(source.execute(_TYPES, (table.oid, list(key))).fetchall())
    stored = {}
    for column, value in key.items():
        query = sql.SQL("select %s::text::{}").format(sql.SQL(types[column].replace("%", "%%")))
        try:
            (found,) = _texts(source, query, (value,)) or (None,)
        except psycopg.DataError as error:
            raise SourceRefused(f"the key column {column}: {first_line(error)}") from error
        stored[column] = "" if found is None else found.decode()
    return stored


def _texts(source: Connection, query: sql.Composed, parameters: Sequence[str]) -> tuple[bytes | None, ...] | None:
    """The first row, each value as its type's output function writes it."""
    result = source.execute(query, parameters).pgresult
    if result is None or not result.ntuples:
        return None
    return tuple(result.get_value(0, column) for column in range(result.nfields))


def changes(
    settings: SourceSettings,
    source: Connection,
    table: Table,
    key: dict[str, str],
    codec: Codec,
    progress: Progress,
) -> tuple[list[Change], EventWriter]:
    """Those of one row in the WAL that is kept, oldest first."""
    names = set(source.execute(_NAMES, {"oid": table.oid}).fetchall())
    streamed = streams(settings.include, settings.exclude)
    include = tuple(_pattern(*name) for name in sorted(names) if streamed(*name))
    if not include:
        raise SourceRefused(f"{table.schema}.{table.name} is not streamed at all: source.tables leaves it out")
    found: list[Change] = []
    stream = ReplicationStream(settings.connection)
    identity = stream.identify()
    stream.abandon()
    with open_past(msgspec.structs.replace(settings, include=include, exclude=())) as past:
        reached = past.stretch.first

        def on_wait() -> None:
            progress(reached)

        for message in past.messages(on_wait):
            if isinstance(message, Change):
                reached = message.transaction.commit_lsn
                if (message.schema, message.table) in names and _is_of(message, key, codec):
                    found.append(message)
    return found, EventWriter(identity)


def _pattern(schema: str, table: str) -> str:
    """As `source.tables` has it."""
    return ".".join("".join(f"\\{each}" if each in ".*\\" else each for each in name) for name in (schema, table))


def _is_of(change: Change, key: dict[str, str], codec: Codec) -> bool:
    """Whether the row had or has this key."""
    for row in (change.new, change.old):
        if row is not None:
            carried = cells(row)
            if all(text_of(carried.get(column), codec) == value for column, value in key.items()):
                return True
    return False


def text_of(cell: tuple[bytes | None, int] | None, codec: Codec) -> str | None:
    return None if cell is None or cell[0] is None else codec.text(cell[0], cell[1])


def as_it_is_now(source: Connection, table: Table, key: dict[str, str]) -> Change | None:
    """The row, as if it were updated now to what it is. As texts, for `TraceJudge.read_texts`. None: it is not there for
    the source login."""
    types = dict(source.execute(_TYPES, (table.oid, list(key))).fetchall())
    same = sql.SQL(" and ").join(
        sql.SQL("t.{} {} %s::text::{}").format(
            quoted(column), sql.SQL(equals.replace("%", "%%")), sql.SQL(types[column].replace("%", "%%"))
        )
        for (column, equals) in zip(table.key, table.key_equals, strict=True)
    )
    columns = sql.SQL(", ").join([sql.SQL("t.{}").format(quoted(name)) for name in table.names])
    query = sql.SQL("select {} from {} t where {}").format(columns, quoted(table.schema, table.name), same)
    values = _texts(source, query, [key[column] for column in table.key])
    return None if values is None else as_known(source, table, values, table.names)


def as_known(source: Connection, table: Table, values: Sequence[bytes | None], names: Sequence[str]) -> Change:
    """An UPDATE of now to these values of these columns."""
    now, xid = source.execute(_NOW).fetchone() or ("", 0)
    types = {column.name: column.type_oid for column in table.columns}
    shape = Shape(tuple(names), tuple(types[name] for name in names))
    # Older than any that runs: every snapshot contains it.
    moment = Transaction((int(xid) - 1) % (1 << 32), 0, now)
    return Change(UPDATE, table.schema, table.name, table.oid, 0, 0, moment, Row(shape, tuple(values)), None, None, 0)
