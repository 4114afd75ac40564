"""What is wrong before the first streaming ends the command with one clear message, before anything moves."""

import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo as pg_conninfo
from psycopg import sql

from bridge.errors import Exit


@pytest.fixture
def database(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The test's own database, as a superuser."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def slot() -> str:
    return f"refusal_{uuid.uuid4().hex[:12]}"


def with_parameters(dsn: str, **parameters: Any) -> str:
    return pg_conninfo.make_conninfo(dsn, **parameters)


def slots(database: psycopg.Connection[Any], slot: str) -> list[Any]:
    return database.execute(
        "select plugin, confirmed_flush_lsn from pg_replication_slots where slot_name = %s", (slot,)
    ).fetchall()


def make_slot(database: psycopg.Connection[Any], slot: str, plugin: str) -> None:
    database.execute("select pg_create_logical_replication_slot(%s, %s)", (slot, plugin))


def test_an_unreachable_database(walrus_bridge) -> None:
    done = walrus_bridge("run", "--connection", "postgresql://u:geheim@127.0.0.1:1/db")

    done.refused(Exit.SOURCE_UNREACHABLE, "127.0.0.1:1/db as u", "cannot be reached")
    assert "geheim" not in done.stderr


def test_no_such_database(walrus_bridge, dsn: str, slot: str) -> None:
    done = walrus_bridge("run", "--connection", with_parameters(dsn, dbname="no_such_one"), "--slot", slot)

    done.refused(Exit.SOURCE_REFUSED, "no_such_one", "does not exist", "What to do")


def test_no_such_login(walrus_bridge, dsn: str, slot: str) -> None:
    done = walrus_bridge("run", "--connection", with_parameters(dsn, user="no_such_one"), "--slot", slot)

    done.refused(Exit.SOURCE_REFUSED, "no_such_one", "What to do")


def test_a_slot_of_another_plugin(walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str) -> None:
    make_slot(database, slot, "test_decoding")
    before = slots(database, slot)

    done = walrus_bridge("run", "--connection", dsn, "--slot", slot)

    done.refused(Exit.SLOT, slot, "test_decoding", "not wal2json", "What to do")
    assert slots(database, slot) == before


def test_a_slot_of_another_database(walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str) -> None:
    # Given a slot here, and another database to connect to
    make_slot(database, slot, "wal2json")
    before = slots(database, slot)
    here = database.info.dbname
    database.execute(sql.SQL("create database {}").format(sql.Identifier(f"{here}_other")))

    # When the bridge runs there
    try:
        done = walrus_bridge("run", "--connection", with_parameters(dsn, dbname=f"{here}_other"), "--slot", slot)
    finally:
        database.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(f"{here}_other")))

    # Then
    done.refused(Exit.SLOT, slot, f"of the database {here}", "What to do")
    assert slots(database, slot) == before


def test_a_slot_in_use_names_pid_and_client(
    walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str
) -> None:
    # Given a client that streams from the slot
    make_slot(database, slot, "wal2json")
    holder = with_parameters(dsn, replication="database", application_name="somebody")
    with psycopg.connect(holder, autocommit=True) as other:
        other.pgconn.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0".encode())

        # When the bridge starts
        done = walrus_bridge("run", "--connection", dsn, "--slot", slot)

        # Then it names who has the slot
        done.refused(Exit.SLOT, slot, f"pid {other.info.backend_pid}", "somebody", "What to do")
        other.pgconn.finish()


@pytest.mark.parametrize(
    ("attribute", "status", "says"),
    [("replication", Exit.MIGRATION, "may not"), ("noreplication", Exit.SOURCE_REFUSED, "replication")],
)
def test_a_login_without_rights(
    attribute: str,
    status: Exit,
    says: str,
    walrus_bridge,
    dsn: str,
    database: psycopg.Connection[Any],
    slot: str,
    config_file,
) -> None:
    # Given a login that may do nothing, or stream but not make the migrations' schemas
    login = f"poor_{uuid.uuid4().hex[:12]}"
    database.execute(sql.SQL("create role {} login {}").format(sql.Identifier(login), sql.SQL(attribute)))
    path = config_file(
        f"source: {{connection: '{with_parameters(dsn, user=login)}', slot: {slot}}}\n"
        f"sink: {{stdout: {{}}}}\nhttp: {{listen: null}}\n"
    )

    # When the bridge runs as it
    try:
        done = walrus_bridge("run", "--config", path)
    finally:
        database.execute(sql.SQL("drop role {}").format(sql.Identifier(login)))

    # Then
    done.refused(status, login, says, "What to do")
    assert slots(database, slot) == []


def test_missing_migrations_that_may_not_be_applied(walrus_bridge, dsn: str, slot: str, config_file) -> None:
    path = config_file(
        f"source: {{connection: '{dsn}', slot: {slot}}}\nsink: {{stdout: {{}}}}\nmigrations: check\nhttp: {{listen: null}}\n"
    )

    walrus_bridge("run", "--config", path).refused(Exit.MIGRATION, "migrations are missing", "What to do")


@pytest.mark.parametrize(
    ("sink", "where"),
    [
        ("kafka: {client: {bootstrap.servers: '127.0.0.1:1'}}", "127.0.0.1:1"),
        ("rabbitmq: {url: 'amqp://u:geheim@127.0.0.1:1/%2F'}", "127.0.0.1:1"),
    ],
)
def test_an_unreachable_broker(
    sink: str, where: str, walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str, config_file
) -> None:
    # Given a slot with a position, and a broker that is not there
    make_slot(database, slot, "wal2json")
    before = slots(database, slot)
    path = config_file(f"source: {{connection: '{dsn}', slot: {slot}}}\nsink: {{{sink}}}\nhttp: {{listen: null}}\n")

    # When
    done = walrus_bridge("run", "--config", path)

    # Then
    done.refused(Exit.SINK_UNREACHABLE, where)
    assert "geheim" not in done.stderr
    assert slots(database, slot) == before


@pytest.mark.parametrize(
    "sink", ["kafka: {client: {bootstrap.servers: '127.0.0.1:%s'}}", "rabbitmq: {url: 'amqp://u:p@127.0.0.1:%s/%%2F'}"]
)
def test_a_broker_that_takes_connections_and_says_nothing(
    sink: str, walrus_bridge, dsn: str, slot: str, config_file: Callable[[str], str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        path = config_file(
            f"source: {{connection: '{dsn}', slot: {slot}}}\nsink: {{{sink % port}}}\nhttp: {{listen: null}}\n"
        )

        walrus_bridge("run", "--config", path).refused(Exit.SINK_UNREACHABLE, f"127.0.0.1:{port}", "What to do")


def test_a_listener_that_cannot_bind_names_the_key(
    walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str, config_file: Callable[[str], str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = config_file(
            f"source: {{connection: '{dsn}', slot: {slot}}}\nsink: {{stdout: {{}}}}\nhttp: {{listen: '127.0.0.1:{port}'}}\n"
        )

        done = walrus_bridge("run", "--config", path)

    done.refused(Exit.CONFIG, "http.listen", f"127.0.0.1:{port}", "What to do")
    assert slots(database, slot) == []


def test_slot_commands_make_show_and_drop_it(
    walrus_bridge, dsn: str, database: psycopg.Connection[Any], slot: str
) -> None:
    of_it = ("--connection", dsn, "--slot", slot)
    walrus_bridge("slot", "show", *of_it).refused(Exit.SLOT, f"there is no slot {slot}", "slot create")

    assert walrus_bridge("slot", "create", *of_it).status == 0
    assert [plugin for plugin, _ in slots(database, slot)] == ["wal2json"]
    walrus_bridge("slot", "create", *of_it).refused(Exit.SLOT, slot, "already exists")
    shown = walrus_bridge("slot", "show", *of_it)
    assert "wal2json" in shown.stdout

    assert walrus_bridge("slot", "drop", *of_it, "--yes").status == 0
    assert slots(database, slot) == []


def test_migrate_deploys_tells_verifies_and_reverts(walrus_bridge, dsn: str) -> None:
    def migrate(*arguments: str):
        return walrus_bridge("migrate", *arguments, "--connection", dsn)

    migrate("verify").refused(Exit.MIGRATION, "migrations are missing")
    assert "missing" in migrate("status").stdout

    assert migrate("deploy").status == 0
    assert migrate("deploy").stdout == "all migrations were applied already\n"
    assert migrate("verify").status == 0
    assert "missing" not in migrate("status").stdout

    migrate("revert", "--to", "nonsense", "--yes").refused(Exit.MIGRATION, "nonsense")
    assert migrate("revert", "--yes").status == 0
    migrate("verify").refused(Exit.MIGRATION, "migrations are missing")
