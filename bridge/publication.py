"""With pgoutput, the user's publication: whether it gives what the bridge needs. It is never altered by the bridge."""

from collections.abc import Sequence

import msgspec
import psycopg
from psycopg import sql

from bridge.errors import SourceRefused
from bridge.sql import Connection, translate

_PUBLICATION = """
select puballtables, pubinsert, pubupdate, pubdelete, pubviaroot from pg_publication where pubname = %s
"""

# The tables that must be there: a partitioned table's changes are those of its partitions. From 15 on, a table may be
# published in part.
_TABLES = """
with recursive wanted (oid) as (
    select unnest(%(tables)s::oid[])
  union
    select i.inhrelid from wanted join pg_inherits i on i.inhparent = wanted.oid
      join pg_class c on c.oid = i.inhrelid and c.relispartition)
select format('%%I.%%I', s.nspname, c.relname), p.tablename is not null, {row_filter}, {columns}
from wanted
join pg_class c on c.oid = wanted.oid and c.relkind = 'r'
join pg_namespace s on s.oid = c.relnamespace
left join pg_publication_tables p on p.pubname = %(name)s and p.schemaname = s.nspname and p.tablename = c.relname
order by 1
"""
_ROW_FILTER = "p.rowfilter"
_COLUMNS = """array(select a.attname::text from pg_attribute a
  where p.tablename is not null and a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    and a.attname <> all (p.attnames) order by a.attnum)"""


class Published(msgspec.Struct, frozen=True):
    """A table that must be streamed, as the publication has it."""

    table: str
    """Qualified and quoted."""
    included: bool
    row_filter: str | None
    hidden_columns: tuple[str, ...]


class Publication(msgspec.Struct, frozen=True):
    name: str
    operations: frozenset[str]
    via_root: bool
    tables: tuple[Published, ...]


def read(connection: Connection, name: str, tables: Sequence[int]) -> Publication | None:
    """The publication as it is, with realtime.subscription and the tables with these OIDs; None: there is none."""
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        return None
    own = connection.execute("select to_regclass('realtime.subscription')::oid").fetchone()
    wanted = [*tables, *([own[0]] if own and own[0] else [])]
    partly = connection.info.server_version >= 150000
    query = _TABLES.format(
        row_filter=_ROW_FILTER if partly else "null", columns=_COLUMNS if partly else "array[]::text[]"
    )
    found = connection.execute(query, {"tables": wanted, "name": name}).fetchall()
    operations = frozenset(name for name, given in zip(("insert", "update", "delete"), row[1:4], strict=True) if given)
    return Publication(
        name,
        operations,
        row[4],
        tuple(Published(table, included, rows, tuple(columns)) for table, included, rows, columns in found),
    )


def faults(publication: Publication) -> list[str]:
    """What keeps events from their subscribers, each with what to do. Pure."""
    quoted = sql.Identifier(publication.name).as_string()
    found = []
    missing = [each.table for each in publication.tables if not each.included]
    if missing:
        found.append(
            f"it lacks {', '.join(missing)}. What to do: alter publication {quoted} add table {', '.join(missing)}"
        )
    lacking = sorted({"insert", "update", "delete"} - publication.operations)
    if lacking:
        found.append(
            f"it does not publish {', '.join(lacking)}. What to do: alter publication {quoted} set"
            f" (publish = 'insert, update, delete, truncate')"
        )
    if publication.via_root:
        found.append(
            "it publishes partitions' changes as those of the partitioned table, which hides the partitions from their"
            f" subscribers. What to do: alter publication {quoted} set (publish_via_partition_root = false)"
        )
    for each in publication.tables:
        if each.row_filter is not None:
            found.append(
                f"its row filter on {each.table} keeps rows from their subscribers. What to do: alter publication"
                f" {quoted} without WHERE for that table; filters belong into subscriptions"
            )
        if each.hidden_columns:
            found.append(
                f"its column list for {each.table} leaves out {', '.join(each.hidden_columns)}, so policies and"
                f" filters cannot see them. What to do: alter publication {quoted} without a column list for that table"
            )
    return found


def create_sql(publication: str, tables: Sequence[str]) -> str:
    """The statement that makes a publication fit for these tables (qualified and quoted)."""
    listed = ", ".join(["realtime.subscription", *tables])
    return f"create publication {sql.Identifier(publication).as_string()} for table {listed};"


def require(connection: Connection, publication: str, tables: Sequence[int]) -> None:
    """Raises SourceRefused with all that is wrong."""
    try:
        found = read(connection, publication, tables)
    except psycopg.Error as error:
        raise translate(error, f"reading publication {publication}") from error
    if found is None:
        names = connection.execute(
            "select format('%%I.%%I', s.nspname, c.relname) from pg_class c join pg_namespace s on s.oid ="
            " c.relnamespace where c.oid = any (%s) order by 1",
            (list(tables),),
        ).fetchall()
        raise SourceRefused(
            f"there is no publication {publication}. What to do:"
            f" {create_sql(publication, [name for (name,) in names])} and then make the slot anew: a publication must be"
            f" older than its slot"
        )
    wrong = faults(found)
    if wrong:
        raise SourceRefused(f"publication {publication} will not do: {'; '.join(wrong)}")
