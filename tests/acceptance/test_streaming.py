"""The main job on stdout, with the bridge as a process on a real server."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import termios
import time
from typing import IO, Any

import psycopg
import pytest
import yaml

from bridge import migrations
from bridge.cluster import temporary_cluster
from bridge.errors import Exit
from tests.servers.postgres import Database
from tests.servers.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.versions
PLUGINS = ["wal2json", "pgoutput"]


def config(database: Database, plugin: str | None = None, **sections: Any) -> dict[str, Any]:
    """For stdout; the publication, where the plugin wants one, is made."""
    plugin = plugin or database.plugins[0]
    source: dict[str, Any] = {"connection": database.dsn, "slot": database.slot, "plugin": plugin}
    if plugin == "pgoutput":
        database.execute("drop publication if exists everything")
        source["publication"] = "everything"
        database.execute("create publication everything for all tables")
    return {"source": source, "sink": {"stdout": {}}, "http": {"listen": None}, **sections}


@pytest.mark.wal2json
def test_the_original_try_it_out(dsn: str, bridge: Any) -> None:
    # An empty database: the bridge applies its migrations and makes the slot.
    running = bridge(arguments=("run", f"--connection={dsn}", f"--slot=try_{os.getpid()}"))
    running.wait_until_streaming()

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table book(id int primary key, title text)")
        connection.execute(
            "insert into realtime.subscription(subscription_id, entity, claims) select gen_random_uuid(), 'public.book',"
            " jsonb_build_object('role', 'postgres', 'email', 'o@r.com', 'sub', gen_random_uuid())"
        )
        connection.execute("insert into book(id, title) values (1, 'Foo')")
        row = connection.execute("select subscription_id::text from realtime.subscription").fetchone()

    (event,) = running.wait_for_events(1)
    assert event["wal"].pop("commit_timestamp").endswith("Z")
    assert row is not None
    assert event == {
        "wal": {
            "schema": "public",
            "table": "book",
            "type": "INSERT",
            "columns": [{"name": "id", "type": "int4"}, {"name": "title", "type": "text"}],
            "record": {"id": 1, "title": "Foo"},
        },
        "is_rls_enabled": False,
        "subscription_ids": [row[0]],
        "errors": [],
    }
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("plugin", PLUGINS)
def test_what_was_delivered_before_a_stop_does_not_come_again(database: Database, bridge: Any, plugin: str) -> None:
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    settings = config(database, plugin)
    first = bridge(config=settings)
    first.wait_until_streaming()
    database.execute("insert into note values (1)")
    first.wait_for_events(1)
    assert first.stop() == Exit.OK
    database.execute("insert into note values (2)")

    second = bridge(config=settings)

    second.wait_for_events(1)
    database.wait_until_confirmed()
    assert [event["wal"]["record"]["id"] for event in second.events] == [2]
    assert second.stop() == Exit.OK


def test_a_killed_bridge_loses_nothing(database: Database, bridge: Any) -> None:
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    settings = config(database)
    delivered: set[int] = set()
    for round_ in range(3):
        running = bridge(config=settings)
        running.wait_until_streaming()
        database.execute(
            "insert into note select generate_series(%s::int, %s)", (round_ * 1000 + 1, round_ * 1000 + 1000)
        )
        running.wait_for_events(10)
        running.kill()
        delivered |= {event["wal"]["record"]["id"] for event in running.events}

    last = bridge(config=settings)
    last.wait_until_streaming()
    database.wait_until_confirmed()
    assert last.stop() == Exit.OK

    delivered |= {event["wal"]["record"]["id"] for event in last.events}
    assert delivered == set(range(1, 3001))


def test_an_open_transaction_is_not_confirmed_and_comes_whole(database: Database, bridge: Any) -> None:
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    running = bridge(config=config(database))
    running.wait_until_streaming()
    with database.connect() as other:
        other.execute("begin; insert into note values (1)")
        database.execute("insert into note values (2)")
        running.wait_for_events(1)
        other.execute("insert into note values (3); commit")

    running.wait_for_events(3)

    assert [event["wal"]["record"]["id"] for event in running.events] == [2, 1, 3]


def test_the_bridge_survives_a_terminated_walsender_and_a_restarted_server(
    binaries: pathlib.Path | None, bridge: Any
) -> None:
    with temporary_cluster(binaries) as cluster:
        migrations.deploy(cluster.dsn())
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("create table note (id int primary key)")
            connection.execute(
                "insert into realtime.subscription (subscription_id, entity, claims)"
                " values (gen_random_uuid(), 'note', '{\"role\": \"postgres\"}')"
            )
            connection.execute("create publication everything for all tables")
        source = {"connection": cluster.dsn(), "plugin": "wal2json"}
        if not cluster.has_wal2json:
            source |= {"plugin": "pgoutput", "publication": "everything"}
        running = bridge(config={"source": source, "sink": {"stdout": {}}, "http": {"listen": None}})
        running.wait_until_streaming()
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_replication")
            connection.execute("insert into note values (1)")
        running.wait_until_streaming(2)
        running.wait_for_events(1)
        cluster.restart("fast")
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("insert into note values (2)")
        running.wait_until_streaming(3)
        running.wait_for(lambda: running.events[-1]["wal"]["record"]["id"] == 2, "the change after the restart")
        # A power cut: what was confirmed may come again, but nothing is lost.
        cluster.restart("immediate")
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("insert into note values (3)")
        running.wait_for(lambda: running.events[-1]["wal"]["record"]["id"] == 3, "the change after the power cut")
        assert running.stop() == Exit.OK
        assert {event["wal"]["record"]["id"] for event in running.events} == {1, 2, 3}


OURS = "select pid from pg_stat_activity where application_name = 'walrus-bridge' and datname = %s"
BLOCKED = f"{OURS} and cardinality(pg_blocking_pids(pid)) > 0"
OPEN = f"{OURS} and state like 'idle in transaction%%'"


def in_pipe(reader: IO[bytes]) -> int:
    """How many bytes wait to be read."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_reader_that_stalls_stalls_the_position_and_a_stop_gives_up(
    database: Database, tmp_path: pathlib.Path
) -> None:
    database.execute("create table note (id int primary key, body text)")
    database.subscribe("note")
    path = tmp_path / "bridge.yaml"
    path.write_text(yaml.safe_dump(config(database, limits={"in_flight": "1MiB"})))
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "run", "--config", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until(lambda: database.confirmed(), "slot made")
        database.wait_until_confirmed()
        position = database.commit("insert into note select g, repeat('x', 1000) from generate_series(1, 20000) g")
        # Nobody reads stdout: the pipe fills, and the position stands still.
        assert process.stdout is not None
        wait_until(lambda: in_pipe(process.stdout) > 60_000, "a full pipe")
        time.sleep(3)
        assert not database.is_past(position)
        # It waits with no transaction open, which would hold back VACUUM and lock tables.
        wait_until(lambda: database.execute(OPEN, (database.name,)) == [], "no transaction open")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == Exit.UNDELIVERED
        assert not database.is_past(position)
    finally:
        process.kill()
        process.communicate()


def test_a_slot_dropped_and_made_anew_behind_its_back_is_a_gap(database: Database, bridge: Any) -> None:
    settings = config(database)
    first = bridge(config=settings)
    first.wait_until_streaming()
    assert first.stop() == Exit.OK
    database.execute("select pg_drop_replication_slot(%s)", (database.slot,))

    second = bridge(config=settings)
    assert second.wait() == Exit.GAP
    assert "--accept-gap" in second.stderr

    # Made anew far ahead of the ceiling.
    database.execute("create table filler (t text)")
    for _ in range(8):
        database.execute("insert into filler select repeat('x', 900) from generate_series(1, 12000)")
    plugin = settings["source"]["plugin"]
    database.execute("select pg_create_logical_replication_slot(%s, %s)", (database.slot, plugin))
    third = bridge(config=settings)
    assert third.wait() == Exit.GAP
    assert "re-created or moved" in third.stderr

    fourth = bridge(config=settings, arguments=("--accept-gap",))
    fourth.wait_until_streaming()
    assert fourth.stop() == Exit.OK


def test_a_second_bridge_is_told_who_holds_the_slot_and_may_wait(database: Database, bridge: Any) -> None:
    settings = config(database)
    first = bridge(config=settings)
    first.wait_until_streaming()

    refused = bridge(config=settings)
    assert refused.wait() == Exit.SLOT
    assert "in use by pid" in refused.stderr
    assert "walrus-bridge" in refused.stderr

    waiting = bridge(config=settings, arguments=("--wait",))
    waiting.wait_for(lambda: "waiting for the slot" in waiting.stderr, "it waits")
    first.kill()
    waiting.wait_until_streaming()
    assert waiting.stop() == Exit.OK


def test_tables_left_out_are_not_streamed(database: Database, bridge: Any) -> None:
    database.execute("create table note (id int primary key); create table secret (id int primary key)")
    database.subscribe("note")
    database.subscribe("secret")
    for number, plugin in enumerate(database.plugins):
        settings = config(database, plugin)
        settings["source"] |= {
            "tables": {"include": ["public.*"], "exclude": ["*.secret"]},
            "slot": f"{database.slot}_{plugin}",
        }
        running = bridge(config=settings)
        running.wait_until_streaming()
        database.execute("insert into secret values (%s)", (number,))
        database.execute("insert into note values (%s)", (number,))
        running.wait_for_events(1)
        assert running.stop() == Exit.OK
        assert [event["wal"]["table"] for event in running.events] == ["note"]


def test_a_policy_that_waits_for_a_lock_is_waited_for(database: Database, bridge: Any) -> None:
    database.execute("""
        create table member (id int primary key);
        insert into member values (1);
        create table note (id int primary key);
        grant select on note, member to anon;
        alter table note enable row level security;
        create policy members on note to anon using (exists (select from public.member m where m.id = note.id));
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=config(database))
    running.wait_until_streaming()
    with database.connect() as locker:
        locker.execute("begin; lock table member in access exclusive mode")
        database.execute("insert into note values (1)")
        time.sleep(3)  # longer than the judge's lock_timeout
        assert running.events == []
        locker.execute("commit")
    running.wait_for_events(1)
    assert running.dead_letters == []
    assert running.stop() == Exit.OK


def test_a_signal_ends_a_judgement_that_waits_for_ever(database: Database, bridge: Any) -> None:
    database.execute("""
        create table member (id int primary key);
        create table note (id int primary key);
        grant select on note, member to anon;
        alter table note enable row level security;
        create policy members on note to anon using (exists (select from public.member));
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=config(database))
    running.wait_until_streaming()
    with database.connect() as locker:
        locker.execute("begin; lock table member in access exclusive mode")
        database.execute("insert into note values (1)")
        running.wait_for(lambda: database.execute(BLOCKED, (database.name,)), "a wait for the lock")
        assert running.stop() == Exit.OK
        locker.execute("commit")


def test_claims_that_make_a_policy_run_for_ever_are_quarantined_alone(database: Database, bridge: Any) -> None:
    database.execute("""
        create table note (id int primary key);
        grant select on note to anon;
        alter table note enable row level security;
        create policy slow on note to anon using
          (case when auth.jwt() ->> 'sub' = 'slow' then pg_sleep(60) is not null else true end);
    """)
    quick = database.subscribe("note", role="anon", sub="quick")
    slow = database.subscribe("note", role="anon", sub="slow")
    running = bridge(config=config(database))
    running.wait_until_streaming()
    database.execute("insert into note values (1)")

    (event,) = running.wait_for_events(1)
    running.wait_for(lambda: running.dead_letters, "the dead letter")
    assert event["subscription_ids"] == [quick]
    (letter,) = running.dead_letters
    assert [each["subscription_id"] for each in letter["undecided"]] == [slow]
    assert letter["change"]["record"] == {"id": "1"}


def test_on_failure_stop_stops_with_the_position_unmoved(database: Database, bridge: Any) -> None:
    database.execute("""
        create table note (id int primary key, parts int);
        grant select on note to anon;
        alter table note enable row level security;
        create policy halves on note to anon using (1 / parts > 0);
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=config(database, on_failure="stop"))
    running.wait_until_streaming()
    position = database.commit("insert into note values (1, 0)")
    assert running.wait() == Exit.POISON
    assert running.events == []
    assert not database.is_past(position)

    # Once the cause is mended, the same change comes.
    database.execute("alter policy halves on note using (true)")
    again = bridge(config=config(database, on_failure="stop"))
    again.wait_for_events(1)
    assert again.events[0]["wal"]["record"] == {"id": 1, "parts": 0}
