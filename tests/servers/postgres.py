"""A test's own database on the session's cluster."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from bridge.cluster import Cluster
from tests.servers.waiting import PATIENCE, wait_until

# What a database of Supabase has besides.
SUPABASE = """
do $$
declare
    name text;
begin
    foreach name in array array['anon', 'authenticated'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin noinherit', name);
        end if;
    end loop;
end $$;
create schema auth;
grant usage on schema auth to public;
create function auth.jwt() returns jsonb language sql stable
    return coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb;
create function auth.uid() returns uuid language sql stable return (auth.jwt() ->> 'sub')::uuid;
create function auth.role() returns text language sql stable return auth.jwt() ->> 'role';
"""


class Database:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.slot = name
        """A slot name that no other test has."""
        self.dsn = cluster.dsn(name)
        self.connection = psycopg.connect(self.dsn, autocommit=True)

    @property
    def plugins(self) -> list[str]:
        """The output plugins that this server has."""
        return ["wal2json", "pgoutput"] if self.cluster.has_wal2json else ["pgoutput"]

    def execute(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run it as a superuser; the rows, if there are any."""
        cursor = self.connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def commit(self, query: str) -> str:
        """Run it in one transaction; the position that the transaction's commit is not before.

        Up to there a slot may be confirmed, for what came before it: past it, the transaction would never come again.
        """
        cursor = self.connection.execute(f"{query}; select pg_current_wal_insert_lsn()::text".encode())
        while cursor.nextset():
            pass
        return str(cursor.fetchall()[0][0])

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def subscribe(self, table: str, role: str = "postgres", **claims: str) -> str:
        """A subscription to all of a table's changes; its id."""
        row = self.execute(
            "insert into realtime.subscription (subscription_id, entity, claims)"
            " values (gen_random_uuid(), %s::regclass, %s) returning subscription_id::text",
            (table, psycopg.types.json.Jsonb({"role": role, **claims})),
        )
        return str(row[0][0])

    def confirmed(self) -> str | None:
        """The slot's flushed LSN."""
        rows = self.execute(
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", (self.slot,)
        )
        return rows[0][0] if rows else None

    def is_past(self, position: str) -> bool:
        """Whether the slot's flushed LSN is past a position, one of `commit`."""
        query = "select confirmed_flush_lsn > %s::pg_lsn from pg_replication_slots where slot_name = %s"
        return self.execute(query, (position, self.slot)) == [(True,)]

    def wait_until_confirmed(self, seconds: float = PATIENCE) -> None:
        """Until the bridge has confirmed all that is in the WAL now."""
        (lsn,) = self.execute("select pg_current_wal_lsn()")[0]
        query = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
        wait_until(lambda: self.execute(query, (lsn, self.slot)) == [(True,)], f"slot confirmed up to {lsn}", seconds)

    def remove(self) -> None:
        self.connection.close()
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as admin:
            drop_database(admin, self.name)


def drop_database(admin: psycopg.Connection[Any], name: str) -> None:
    """The database, its slots and whoever is connected."""
    query = "from pg_replication_slots where database = %s"
    active = f"select pg_terminate_backend(active_pid) {query} and active_pid is not null"

    def is_dropped() -> bool:
        with contextlib.suppress(psycopg.errors.ObjectInUse):  # who was told to end may take a while
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            return True
        return False

    wait_until(lambda: not admin.execute(active, (name,)).fetchall(), "the slots' release")
    admin.execute(f"select pg_drop_replication_slot(slot_name) {query}", (name,))
    wait_until(is_dropped, "the database dropped")


@contextlib.contextmanager
def binaries_of(version: str) -> Iterator[pathlib.Path]:
    """The folder of that version's programs, which `tools/install.sh tests` has fetched. No psql is among them."""
    folder = pathlib.Path(__file__).parents[2] / ".cache" / "postgres" / version
    if not (folder / "bin" / "postgres").exists():
        raise RuntimeError(f"PostgreSQL {version} is not in {folder}. What to do: make test-versions fetches it")
    with tempfile.TemporaryDirectory(prefix="walrus-bridge-bin-") as home:
        # A checkout may be where the account that PostgreSQL runs as does not get.
        copy = pathlib.Path(home, version)
        shutil.copytree(folder, copy, symlinks=True)
        pathlib.Path(home).chmod(0o755)
        yield copy / "bin"
