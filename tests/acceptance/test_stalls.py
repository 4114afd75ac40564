"""What is slow, stuck or cut off stalls the bridge, and never makes it skip a change."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bridge import migrations
from bridge.errors import Exit
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database
from tests.servers.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.versions

SLOW_POLICY = """
    create function slow() returns boolean language plpgsql volatile as
      $$ begin perform pg_sleep(3); return true; end $$;
    create table note (id int primary key);
    grant select on note to anon;
    alter table note enable row level security;
    create policy slow on note to anon using (slow());
"""
JUDGING = (
    "select pid from pg_stat_activity where application_name = 'walrus-bridge' and query ~ 'unnest' and datname = %s"
)


@pytest.fixture
def run(database: Database, bridge: Any) -> Callable[..., BridgeProcess]:
    """Start the bridge to stdout; it streams when this returns."""

    def start(**sections: Any) -> BridgeProcess:
        plugin = database.plugins[0]
        database.execute("create publication everything for all tables")
        source = {"connection": database.dsn, "slot": database.slot, "plugin": plugin}
        source |= {"publication": "everything"} if plugin == "pgoutput" else {}
        running: BridgeProcess = bridge(
            config={"source": source, "sink": {"stdout": {}}, "http": {"listen": None}, **sections}
        )
        running.wait_until_streaming()
        return running

    return start


def ids(running: BridgeProcess) -> list[int]:
    return [event["wal"]["record"]["id"] for event in running.events]


def set_everywhere(database: Database, **settings: str) -> None:
    """For the database, and for the login in it, which wins."""
    for name, value in settings.items():
        setting = sql.SQL(" set {} = {}").format(sql.Identifier(name), sql.Literal(value))
        place = sql.Identifier(database.name)
        database.execute(sql.SQL("alter database {}").format(place) + setting)
        database.execute(sql.SQL("alter role postgres in database {}").format(place) + setting)


def time_limits(connection: psycopg.Connection[Any]) -> list[str]:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    return [*names, "transaction_timeout"] if connection.info.server_version >= 170000 else names


def judging(database: Database) -> int | None:
    """The backend that runs a policy now."""
    rows = database.execute(f"{JUDGING} and state = 'active'", (database.name,))
    return rows[0][0] if rows else None


def test_a_judging_connection_that_dies_while_a_policy_runs(
    database: Database, run: Callable[..., BridgeProcess]
) -> None:
    database.execute(SLOW_POLICY)
    database.subscribe("note", role="anon")
    running = run()
    for number in (1, 2):
        database.execute("insert into note values (%s)", (number,))
        pid = wait_until(lambda: judging(database), "a policy that runs")
        assert ids(running)[-1:] != [number]
        database.execute("select pg_terminate_backend(%s)", (pid,))
        running.wait_for(lambda number=number: ids(running)[-1:] == [number], "its event")

    assert sorted(set(ids(running))) == [1, 2]
    assert running.dead_letters == []
    assert running.stop() == Exit.OK


def test_a_judging_backend_that_stands_still_is_waited_for(
    database: Database, run: Callable[..., BridgeProcess]
) -> None:
    database.execute(SLOW_POLICY)
    set_everywhere(database, wal_sender_timeout="6s")
    database.subscribe("note", role="anon")
    running = run()
    position = database.commit("insert into note values (1)")
    pid = wait_until(lambda: judging(database), "a policy that runs")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(8)  # longer than the policy's time limit, and than the walsender's patience
        assert running.events == []
        assert not database.is_past(position)
    finally:
        os.kill(pid, signal.SIGCONT)

    running.wait_for_events(1)
    database.wait_until_confirmed()
    assert ids(running) == [1]
    assert running.dead_letters == []
    assert "source lost" not in running.stderr
    assert running.stop() == Exit.OK


def test_time_limits_of_the_login_and_the_database_are_not_the_bridges(
    database: Database, run: Callable[..., BridgeProcess]
) -> None:
    database.execute(SLOW_POLICY)
    database.subscribe("note", role="anon")
    database.execute("create table other (id int primary key, body text)")
    database.subscribe("other")
    set_everywhere(database, **dict.fromkeys(time_limits(database.connection), "100ms"))
    running = run()

    database.execute("insert into note values (1)")
    database.wait_until_confirmed()
    time.sleep(0.5)  # idle for longer than the limits
    database.execute("insert into note values (2)")
    database.wait_until_confirmed()

    # The walsender takes longer than that for a transaction.
    database.execute("insert into other select n, repeat('x', 1900) from generate_series(3, 10000) n")
    database.wait_until_confirmed()

    assert ids(running) == list(range(1, 10001))
    assert running.dead_letters == []
    assert "source lost" not in running.stderr
    assert running.stop() == Exit.OK


def test_nor_are_they_the_migrations(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in time_limits(connection):
            connection.execute(f"alter database {connection.info.dbname} set {name} = '10ms'")

    migrations.deploy(dsn)

    migrations.ensure(dsn, "check")


@pytest.mark.parametrize("secured", [True, False], ids=["row security", "no row security"])
def test_a_lock_on_a_subscribed_table_is_waited_for_or_none_of_its_business(
    database: Database, run: Callable[..., BridgeProcess], secured: bool
) -> None:
    database.execute("create table note (id int primary key); grant select on note to anon")
    if secured:
        database.execute("alter table note enable row level security; create policy everyone on note using (true)")
    set_everywhere(database, wal_sender_timeout="6s")
    database.subscribe("note", role="anon")
    running = run()
    with ThreadPoolExecutor(1) as thread, database.connect() as writer, database.connect() as locker:
        writer.execute("begin; insert into note values (1); savepoint before; lock table note in access exclusive mode")
        database.execute("select pg_logical_emit_message(true, 'other', '')")
        # The next one has it with no gap between.
        locked = thread.submit(locker.execute, "begin; lock table note in access exclusive mode")
        wait_until(lambda: database.execute("select 1 from pg_locks where not granted"), "the next one's waiting")
        writer.execute("commit")
        locked.result(PATIENCE)
        if not secured:
            running.wait_for_events(1)
        time.sleep(8)
        assert ids(running) == ([] if secured else [1])
        assert "source lost" not in running.stderr
        locker.execute("insert into note values (2); commit")

    database.wait_until_confirmed()
    assert ids(running) == [1, 2]
    assert running.dead_letters == []
    assert "source lost" not in running.stderr
    assert running.stop() == Exit.OK
