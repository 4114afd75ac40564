"""deploy/roles.sql: the source login can do what the bridge does; the judging login can do nothing but judge."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import conninfo as pg_conninfo

from bridge import migrations
from bridge.errors import MigrationError

ROLES = Path(__file__).parents[2] / "deploy" / "roles.sql"

SETUP = """
create schema app;
create type app.mood as enum ('sad', 'ok');
create table app.note (id int primary key, mood app.mood, owner text);
alter table app.note enable row level security;
create policy mine on app.note to "{reader}" using (owner = current_user);
grant usage on schema app to "{reader}";
grant select on app.note to "{reader}";
insert into app.note values (1, 'ok', '{reader}'), (2, 'sad', 'somebody else');
"""


class Logins(msgspec.Struct, frozen=True):
    dsn: str
    source: str
    judge: str
    reader: str
    """A claims role, whose name needs quotes."""
    application: str

    def run(self, **variables: str) -> str:
        """Run roles.sql; what it said."""
        given = {
            "source_login": self.source,
            "judge_login": self.judge,
            "claims_roles": f'"{self.reader}",postgres',
            **variables,
        }
        arguments = [part for name, value in given.items() for part in ("-v", f"{name}={value}")]
        done = subprocess.run(
            ["psql", "-X", *arguments, "-f", str(ROLES), self.dsn], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        return done.stderr

    def conninfo(self, user: str, **more: str) -> str:
        return pg_conninfo.make_conninfo(self.dsn, user=user, **more)

    def connect(self, user: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo(user), autocommit=True)


@pytest.fixture
def logins(dsn: str) -> Iterator[Logins]:
    unique = os.getpid()
    made = Logins(dsn, f"source_{unique}", f"Judge {unique}", f"Reader, {unique}", f"application_{unique}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'create role "{made.reader}" noinherit; create role "{made.application}" login'.encode())
        connection.execute(SETUP.format(reader=made.reader).encode())
        yield made
        for name in (made.source, made.judge, made.application, made.reader):
            row = connection.execute("select from pg_roles where rolname = %s", (name,)).fetchone()
            if row is not None:
                connection.execute(f'drop owned by "{name}" cascade; drop role "{name}"'.encode())


def denied(connection: psycopg.Connection[Any], statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_source_login_can_do_what_the_bridge_does(logins: Logins) -> None:
    migrations.deploy(logins.dsn)
    logins.run()

    migrations.ensure(logins.conninfo(logins.source), "check")
    with logins.connect(logins.source) as connection:
        assert connection.execute("select id, mood::text from app.note order by id").fetchall() == []
        assert connection.execute("select 'sad'::app.mood::text").fetchone() == ("sad",)
        assert connection.execute("select claims from realtime.subscription").fetchall() == []
        slot = f"roles_{os.getpid()}"
        connection.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        connection.execute("select pg_logical_emit_message(false, 'walrus-bridge', 'heartbeat')")
        connection.execute("insert into walrus_bridge.slot values ('s', '1', 1, 'wal2json', '0/0', '0/0')")
        connection.execute("update walrus_bridge.slot set ceiling = '0/1'; delete from walrus_bridge.slot")
        connection.execute("insert into walrus_bridge.replay_mark values ('s', '0/0', now())")
        connection.execute("delete from walrus_bridge.replay_mark")
        denied(connection, "insert into app.note values (3)")
        denied(connection, "create schema more")
        denied(connection, "delete from realtime.subscription")
        denied(connection, f'set role "{logins.reader}"')
    with psycopg.connect(logins.conninfo(logins.source, replication="database"), autocommit=True) as connection:
        assert connection.execute("IDENTIFY_SYSTEM").fetchone()


def test_the_source_login_runs_the_migrations_only_where_it_is_let(logins: Logins) -> None:
    assert "walrus_bridge.slot is missing" in logins.run()
    with pytest.raises(MigrationError, match="may not create the schemas"):
        migrations.deploy(logins.conninfo(logins.source))

    assert "is missing" not in logins.run(migrations="on")
    assert migrations.deploy(logins.conninfo(logins.source)) == migrations.changes()


def test_the_judging_login_can_become_a_claims_role_and_nothing_else(logins: Logins) -> None:
    migrations.deploy(logins.dsn)
    said = logins.run()
    assert "postgres is not subject to row level security" in said

    with logins.connect(logins.judge) as connection:
        denied(connection, "select from app.note")
        denied(connection, "select from realtime.subscription")
        denied(connection, "select from walrus_bridge.slot")
        denied(connection, "select pg_create_logical_replication_slot('x', 'test_decoding')")
        denied(connection, "select pg_drop_replication_slot('x')")
        denied(connection, "create schema x")
        denied(connection, "create role x")
        for role in (logins.source, "postgres", "pg_read_all_data", logins.application):
            denied(connection, f'set role "{role}"')
        denied(connection, f'grant "{logins.reader}" to "{logins.application}"')

        connection.execute(f'set role "{logins.reader}"'.encode())
        assert connection.execute("select id from app.note").fetchall() == [(1,)]
    with pytest.raises(psycopg.OperationalError, match=r"superuser|replication|permission"):
        psycopg.connect(logins.conninfo(logins.judge, replication="database"))


def test_it_may_be_run_again_and_finds_the_roles_of_subscriptions(logins: Logins) -> None:
    logins.run(claims_roles="")
    migrations.deploy(logins.dsn)
    with psycopg.connect(logins.dsn, autocommit=True) as connection:
        connection.execute(
            "insert into realtime.subscription (subscription_id, entity, claims)"
            " values (gen_random_uuid(), 'app.note', jsonb_build_object('role', %s::text))",
            (logins.reader,),
        )

    for _ in range(2):
        logins.run(claims_roles="")

    with logins.connect(logins.judge) as connection:
        connection.execute(f'set role "{logins.reader}"'.encode())


def test_an_application_gets_what_subscribing_needs(logins: Logins) -> None:
    migrations.deploy(logins.dsn)
    with psycopg.connect(logins.dsn, autocommit=True) as connection:
        connection.execute(f'grant usage on schema app to "{logins.application}"'.encode())
    logins.run(subscribing_roles=logins.application)

    with logins.connect(logins.application) as connection:
        connection.execute(
            "insert into realtime.subscription (subscription_id, entity, claims, filters) values (gen_random_uuid(),"
            " 'app.note', jsonb_build_object('role', %s::text), array[('mood', 'eq', 'sad')"
            "::realtime.user_defined_filter])",
            (logins.reader,),
        )
        assert connection.execute("delete from realtime.subscription").rowcount == 1
        denied(connection, "select from walrus_bridge.slot")


def test_passwords_come_from_the_environment(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = "select rolpassword from pg_authid where rolname = any (%s) order by rolname"
    names = [logins.judge, logins.source]
    with psycopg.connect(logins.dsn, autocommit=True) as connection:
        logins.run()
        assert connection.execute(stored, (names,)).fetchall() == [(None,), (None,)]

        monkeypatch.setenv("WALRUS_SOURCE_PASSWORD", 'it\'s "s3cret" \\ $HOME')
        monkeypatch.setenv("WALRUS_JUDGE_PASSWORD", "another")
        logins.run()
        hashes = [value for (value,) in connection.execute(stored, (names,))]
        assert all(value.startswith("SCRAM-SHA-256$") for value in hashes)

        monkeypatch.delenv("WALRUS_SOURCE_PASSWORD")
        monkeypatch.delenv("WALRUS_JUDGE_PASSWORD")
        logins.run()
        assert [value for (value,) in connection.execute(stored, (names,))] == hashes


@pytest.mark.parametrize("attribute", ["superuser", "replication", "bypassrls", "createrole", "createdb"])
def test_a_judging_login_with_powers_is_refused(logins: Logins, attribute: str) -> None:
    with psycopg.connect(logins.dsn, autocommit=True) as connection:
        connection.execute(f'create role "{logins.judge}" login {attribute}'.encode())
    with pytest.raises(AssertionError, match="which a policy could use"):
        logins.run()


def test_a_claims_role_that_is_missing_is_named(logins: Logins) -> None:
    with pytest.raises(AssertionError, match="claims_roles: there is no role missing"):
        logins.run(claims_roles="missing")
