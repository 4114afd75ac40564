"""The preflight check of the subscribed tables: key, replica identity, and what the plugin does not carry."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from bridge.finding import Finding, ok, warning
from bridge.patterns import streams
from bridge.sql import Connection

_TABLES = """
with recursive subscribed as (
    select distinct s.entity::oid as oid from realtime.subscription s
), carried as (
    select oid from subscribed
  union
    select i.inhrelid from carried p join pg_inherits i on i.inhparent = p.oid join pg_class c on c.oid = i.inhrelid
    where c.relispartition
)
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
  exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate),
  exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident),
  exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          and a.atttypid in ('float4'::regtype, 'float8'::regtype, 'numeric'::regtype)),
  exists (select from pg_attribute a where a.attrelid = c.oid and a.attgenerated <> ''),
  c.oid in (select oid from subscribed)
from carried join pg_class c using (oid) join pg_namespace n on n.oid = c.relnamespace
order by 2, 3
"""


class TableFacts(msgspec.Struct, frozen=True):
    """A subscribed table, or a partition of one."""

    oid: int
    schema: str
    name: str
    kind: str
    """pg_class.relkind"""
    persistence: str
    """pg_class.relpersistence"""
    identity: str
    """pg_class.relreplident"""
    has_key: bool
    """A primary key that is not deferrable: a deferrable one gives no identity."""
    has_identity_index: bool
    has_floats: bool
    """Has columns that can hold NaN or infinity."""
    has_generated: bool
    subscribed: bool
    """By its own name, not only as a partition."""

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def logs_identity(self) -> bool:
        """Whether UPDATE and DELETE log which row they are about."""
        if self.identity == "i":
            return self.has_identity_index
        return self.identity == "f" or (self.identity == "d" and self.has_key)


def read_tables(connection: Connection) -> list[TableFacts]:
    return [TableFacts(*row) for row in connection.execute(_TABLES)]


def tables(
    found: Sequence[TableFacts], plugin: str, server_major: int, include: Sequence[str], exclude: Sequence[str]
) -> list[Finding]:
    """What the subscribers of these tables will not get, and why. Pure."""
    streamed = streams(include, exclude)
    findings = [finding for table in found for finding in _table(table, plugin, streamed)]
    if not found:
        findings.append(ok("tables", "no table is subscribed yet"))
    elif not findings:
        subscribed = sum(table.subscribed for table in found)
        findings.append(ok("tables", f"{subscribed} subscribed, each with a key and a replica identity"))
    findings.extend(_losses(found, plugin, server_major))
    return findings


def _table(table: TableFacts, plugin: str, streamed: Callable[[str, str], bool]) -> Iterable[Finding]:
    name = f"table {table.label}"
    if table.kind not in {"r", "p"}:
        yield warning(name, "is not a table, so nothing of it is in the stream", "subscribe to the table behind it")
        return
    if table.persistence != "p":
        yield warning(name, "is not logged, so nothing of it is in the stream", f"alter table {table.label} set logged")
    if table.kind == "r" and not streamed(table.schema, table.name):
        yield warning(name, "is subscribed, but source.tables leaves it out", "add it there, or drop the subscriptions")
    if table.subscribed and not table.has_key:
        what = "has no primary key (a deferrable one is none): its subscribers get error 400 in place of rows"
        yield warning(name, what, f"alter table {table.label} add primary key (…)")
    if table.kind == "r" and not table.logs_identity:
        outcome = "do not arrive" if plugin == "wal2json" else "fail in the application once it is published"
        what = f"has no replica identity: UPDATE and DELETE {outcome}"
        yield warning(name, what, f"give it a primary key, or alter table {table.label} replica identity full")


def _losses(found: Sequence[TableFacts], plugin: str, server_major: int) -> Iterable[Finding]:
    floats = [table.label for table in found if table.has_floats]
    if plugin == "wal2json" and floats:
        what = f"wal2json turns NaN and infinity into null; concerned: {_some(floats)}"
        yield warning("values", what, "none needed if these columns hold no such values; else use plugin: pgoutput")
    generated = [table.label for table in found if table.has_generated]
    if plugin == "pgoutput" and server_major < 18 and generated:
        what = f"pgoutput leaves out generated columns before PostgreSQL 18; concerned: {_some(generated)}"
        yield warning("values", what, "use plugin: wal2json if subscribers need them")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
