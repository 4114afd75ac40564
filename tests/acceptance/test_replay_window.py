"""`source.replay_window`: the second slot is begun, moved, bounded and dropped, and never stops the stream."""

import pathlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from bridge import migrations, status_facts
from bridge.cluster import temporary_cluster
from bridge.errors import Exit
from bridge.lsn import format_lsn, parse_lsn
from bridge.slot import second_slot
from bridge.sql import connect
from bridge.window_facts import Facts, facts, mark_before
from tests.acceptance.replaying import config, keep_from_here, slots
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.versions


def window(database: Database) -> Facts | None:
    with connect(database.dsn) as connection:
        return facts(connection, database.slot)


def settings(database: Database, **source: Any) -> dict[str, Any]:
    database.execute("create table if not exists note (id serial primary key, body text)")
    return config(database, {"stdout": {}}, source=source)


def write(database: Database, mebibytes: int) -> None:
    for _ in range(mebibytes):
        database.execute("insert into note (body) select repeat('x', 900) from generate_series(1, 1000)")


def started(bridge: Any, database: Database, **source: Any) -> BridgeProcess:
    running: BridgeProcess = bridge(config=settings(database, **source))
    running.wait_for(lambda: "replay window begun" in running.stderr, "the second slot")
    return running


def oldest(database: Database) -> int:
    found = window(database)
    assert found is not None
    return found.oldest_lsn or 0


def test_a_window_of_time_keeps_that_and_goes_on_after_a_stop(database: Database, bridge: Any) -> None:
    running = started(bridge, database, replay_window="4s")
    begun = oldest(database)
    (now, lsn) = database.execute("select clock_timestamp(), pg_current_wal_flush_lsn()::text")[0]
    write(database, 1)

    # While the time is not up it stays; then it moves, never past what was written since.
    while True:
        at = oldest(database)
        if datetime.now(UTC) > now + timedelta(seconds=3):
            break
        assert at <= parse_lsn(lsn)
        time.sleep(0.1)
    running.wait_for(lambda: oldest(database) > begun, "the window moved")
    running.wait_for(lambda: oldest(database) >= parse_lsn(lsn), "the window past what is too old")
    found = window(database)
    assert found is not None
    assert found.oldest_at is not None
    assert now - timedelta(seconds=1) < found.oldest_at

    # Stopped, it stands; and the time of the stop counts.
    assert running.stop() == Exit.OK
    stood = oldest(database)
    write(database, 1)
    time.sleep(1)
    assert oldest(database) == stood
    found = window(database)
    assert found is not None
    assert found.oldest_at is not None
    told = status_facts.read(database.connection, database.slot, "wal2json")
    assert told.replay_since is not None
    since = datetime.fromisoformat(told.replay_since)
    assert found.oldest_at <= since < found.oldest_at + timedelta(seconds=1)
    again = bridge(config=settings(database, replay_window="4s"))
    again.wait_for(lambda: oldest(database) > stood, "the window moved after the start")
    assert again.stop() == Exit.OK


def test_a_window_of_a_size_keeps_that_much(database: Database, bridge: Any) -> None:
    running = started(bridge, database, replay_window="4MiB")
    write(database, 12)
    database.wait_until_confirmed()

    def kept() -> int:
        (end,) = database.execute("select pg_current_wal_flush_lsn()::text")[0]
        return parse_lsn(end) - oldest(database)

    running.wait_for(lambda: kept() < 6 << 20, "the window moved")

    assert kept() > 3 << 20
    # It is never past the bridge's own slot, and marks that nobody needs are gone.
    assert oldest(database) <= parse_lsn(slots(database)[database.slot][1])
    since = format_lsn(oldest(database))
    query = "select count(*) from walrus_bridge.replay_mark where lsn < %s::pg_lsn"
    running.wait_for(lambda: database.execute(query, (since,)) == [(0,)], "the old marks gone")
    assert running.stop() == Exit.OK


def test_beyond_its_limit_it_is_begun_anew(database: Database, bridge: Any) -> None:
    running = started(bridge, database, replay_window="1h", replay_limit="8MiB")
    begun = oldest(database)
    write(database, 20)
    database.execute("checkpoint")  # says which transactions run, so that the bridge's own slot lets go of WAL
    database.wait_until_confirmed()

    running.wait_for(lambda: "replay window dropped, and begun anew" in running.stderr, "the limit")
    running.wait_for(lambda: window(database) and oldest(database) > begun, "another window")

    assert "more than source.replay_limit (8MiB)" in running.stderr
    database.execute("insert into note (body) values ('last')")
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK


def test_a_slot_that_the_server_has_invalidated_is_begun_anew(binaries: pathlib.Path | None, bridge: Any) -> None:
    limit = {"max_slot_wal_keep_size": "64MB", "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with temporary_cluster(binaries, settings=limit) as cluster:
        migrations.deploy(cluster.dsn())
        database = Database(cluster, "postgres")
        try:
            running = started(bridge, database, replay_window="1h")
            for _ in range(16):
                write(database, 8)
                database.execute("checkpoint")
                database.wait_until_confirmed()
            running.wait_for(lambda: "the server has invalidated it" in running.stderr, "the slot lost")
            running.wait_for(lambda: (found := window(database)) and found.wal_status != "lost", "another")
            database.wait_until_confirmed()
            assert running.stop() == Exit.OK
        finally:
            database.connection.close()


def test_null_drops_what_the_bridge_has_made_and_nothing_else(database: Database, bridge: Any) -> None:
    running = started(bridge, database, replay_window="1h")
    assert running.stop() == Exit.OK

    # The original worker's line does not care.
    if database.cluster.has_wal2json:
        worker = bridge(arguments=(f"--connection={database.dsn}", f"--slot={database.slot}"), program=("-c", WORKER))
        worker.wait_until_streaming()
        assert worker.stop() == Exit.OK
        assert second_slot(database.slot) in slots(database)

    without = bridge(config=settings(database))
    without.wait_for(lambda: second_slot(database.slot) not in slots(database), "the second slot dropped")
    assert without.stop() == Exit.OK
    assert database.execute("select count(*) from walrus_bridge.replay_mark") == [(0,)]

    # One of that name that somebody else has made
    keep_from_here(database)
    other = bridge(config=settings(database))
    other.wait_until_streaming()
    database.execute("insert into note (body) values ('x')")
    database.wait_until_confirmed()
    assert other.stop() == Exit.OK
    assert second_slot(database.slot) in slots(database)


WORKER = "from bridge.cli import walrus; walrus()"


def test_without_room_for_a_slot_the_stream_goes_on_until_there_is(binaries: pathlib.Path | None, bridge: Any) -> None:
    with temporary_cluster(binaries, settings={"max_replication_slots": "2"}) as cluster:
        migrations.deploy(cluster.dsn())
        database = Database(cluster, "postgres")
        try:
            database.execute("select pg_create_physical_replication_slot('other')")
            running = bridge(config=settings(database, replay_window="1h"))
            running.wait_for(lambda: "all replication slots are in use" in running.stderr, "the warning")
            database.subscribe("note")
            database.execute("insert into note (body) values ('x')")
            running.wait_for_events(1)
            database.execute("select pg_drop_replication_slot('other')")
            running.wait_for(lambda: window(database), "the second slot")
            assert running.stop() == Exit.OK
        finally:
            database.connection.close()


def test_without_its_table_there_is_no_window_and_the_bridge_runs(database: Database, bridge: Any) -> None:
    database.execute("drop table walrus_bridge.replay_mark")
    running = bridge(config=settings(database, replay_window="1h") | {"migrations": "off"})
    running.wait_for(lambda: "replay_mark is missing" in running.stderr, "the warning")
    database.execute("insert into note (body) values ('x')")
    database.wait_until_confirmed()
    assert window(database) is None
    assert running.stop() == Exit.OK


def test_a_slot_of_that_name_that_others_have_made_is_left_alone(database: Database, bridge: Any) -> None:
    plugin = database.plugins[0]
    database.execute("select pg_create_logical_replication_slot(%s, %s)", (second_slot(database.slot), plugin))
    begun = oldest(database)
    running = bridge(config=settings(database, replay_window="1s"))
    running.wait_for(lambda: "that this bridge has not made" in running.stderr, "the warning")
    write(database, 1)
    time.sleep(3)
    database.wait_until_confirmed()
    assert oldest(database) == begun
    assert running.stderr.count("that this bridge has not made") == 1
    assert running.stop() == Exit.OK


def test_marks_of_another_server_do_not_move_it(database: Database, bridge: Any) -> None:
    # As after a dump was restored here: long ago, and further on than this server's WAL.
    database.execute(
        "insert into walrus_bridge.replay_mark values (%s, 'F000/0', now() - interval '1 year')", (database.slot,)
    )
    running = started(bridge, database, replay_window="1h")
    begun = oldest(database)
    write(database, 1)
    query = "select count(*) from walrus_bridge.replay_mark where lsn > pg_current_wal_lsn()"
    running.wait_for(lambda: database.execute(query) == [(0,)], "the mark gone")
    assert oldest(database) == begun
    assert running.stop() == Exit.OK


def test_slot_drop_drops_both(database: Database, bridge: Any, walrus_bridge: Any) -> None:
    running = started(bridge, database, replay_window="1h")
    assert running.stop() == Exit.OK

    done = walrus_bridge("slot", "drop", "--yes", "--connection", database.dsn, "--slot", database.slot)

    assert done.status == Exit.OK, done.stderr
    assert done.stdout == f"dropped slot {database.slot} and {second_slot(database.slot)}\n"
    assert slots(database) == {}


def test_check_tells_of_it(database: Database, bridge: Any, walrus_bridge: Any, tmp_path: pathlib.Path) -> None:
    running = started(bridge, database, replay_window="1h")

    done = walrus_bridge("check", "--config", str(tmp_path / "bridge.yaml"))

    line = next(line for line in done.stdout.splitlines() if "source.replay_window" in line)
    assert line.startswith("ok ")
    assert "1h: from 0/" in line
    assert "committed since 20" in line
    assert running.stop() == Exit.OK


def test_two_at_once_do_not_keep_each_other_from_moving(database: Database, bridge: Any) -> None:
    """A copy is made while the slot is moved."""
    running = started(bridge, database, replay_window="1s")
    begun = oldest(database)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for number in range(30):
            write(database, 1)
            connection.execute(
                "select pg_copy_logical_replication_slot(%s, %s, true)",
                (second_slot(database.slot), f"{database.slot}_copy_{number}"),
            )
            connection.execute("select pg_drop_replication_slot(%s)", (f"{database.slot}_copy_{number}",))
    wait_until(lambda: oldest(database) > begun, "the window moved")
    assert "cannot be kept" not in running.stderr
    assert running.stop() == Exit.OK


def test_a_clock_that_was_set_back_hides_nothing_from_since(database: Database) -> None:
    # Given marks of which the last was made after the clock was set back by an hour
    (now,) = database.execute("select clock_timestamp()")[0]
    ages = {"0/100": 120, "0/200": 100, "0/300": 60, "0/400": 110}
    for lsn, minutes in ages.items():
        values = (database.slot, lsn, now - timedelta(minutes=minutes))
        database.execute("insert into walrus_bridge.replay_mark values (%s, %s, %s)", values)

    def before(minutes: int) -> str | None:
        with connect(database.dsn) as connection:
            found = mark_before(connection, database.slot, now - timedelta(minutes=minutes), 0)
        return None if found is None else format_lsn(found)

    # Then what was committed 80 minutes ago by the clock of then is not below the mark for it
    assert before(80) == "0/200"
    assert before(105) == "0/100"
    assert before(130) is None
    assert before(50) == "0/400"
