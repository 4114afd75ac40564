"""Limits on the rate of events, with the bridge as a process: they slow reading, drop nothing, and all else goes on."""

import itertools
import time
from typing import Any, NamedTuple

import pytest

from bridge.errors import Exit
from bridge.pace import CREDIT_SECONDS
from tests.acceptance.test_parts import from_kafka, kafka_sink
from tests.acceptance.test_streaming import config
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.waiting import PATIENCE

# The bridge, but that tells of its progress every second.
TALKATIVE = """
from bridge import minutes
minutes.PROGRESS_SECONDS = 1.0
from bridge.cli import main
main()
"""
SENDER = "select active_pid, confirmed_flush_lsn > %s::pg_lsn from pg_replication_slots where slot_name = %s and active_pid > 0"


def ids(running: BridgeProcess, table: str = "note") -> list[int]:
    return [each["wal"]["record"]["id"] for each in running.events if each["wal"]["table"] == table]


def tables(database: Database, *names: str) -> None:
    for name in names:
        database.execute(f"create table {name} (id int primary key)")
        database.subscribe(name)


class Look(NamedTuple):
    before: float
    """time.monotonic()"""
    count: int
    after: float


def look(running: BridgeProcess) -> Look:
    """How many events there are."""
    return Look(time.monotonic(), len(running.events), time.monotonic())


@pytest.mark.versions
def test_events_go_at_the_rate_while_acknowledgements_and_status_updates_go_on(database: Database, bridge: Any) -> None:
    tables(database, "note")
    settings = config(database, limits={"events_per_second": 40})
    running = bridge(config=settings, program=("-c", TALKATIVE))
    running.wait_until_streaming()
    database.wait_until_confirmed()
    (before,) = database.execute("select pg_current_wal_lsn()::text")[0]
    (sender, _) = database.execute(SENDER, (before, database.slot))[0]

    for number in range(100):
        database.execute("insert into note values (%s)", (number,))
    database.execute("insert into note select generate_series(100, 299)")
    seen = [look(running)]
    while seen[-1].count < 300:
        time.sleep(0.05)
        seen.append(look(running))
        assert seen[-1].before < seen[0].before + PATIENCE
        if seen[-1].count > 60:
            # One by one they are confirmed while others wait, by the walsender that was there at first.
            assert database.execute(SENDER, (before, database.slot)) == [(sender, True)]

    # The rate, in the longest time that may lie between two looks.
    for first, last in itertools.combinations(seen, 2):
        assert last.count - first.count <= 40 * (last.after - first.before + CREDIT_SECONDS) + 1
    assert ids(running) == [*range(300)]
    assert running.stderr.count("held back by limits") == 1
    told = [float(part.split()[0]) for part in running.stderr.split("held_back_seconds=")[1:]]
    assert len(told) > 3
    assert sum(told) > 3
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK


def test_a_slow_table_makes_the_others_wait_and_only_its_own_count(database: Database, bridge: Any) -> None:
    tables(database, "note", "other")
    running = bridge(config=config(database, limits={"per_table": {"public.note": 2}}))
    running.wait_until_streaming()

    database.execute("insert into other select generate_series(1, 500)")
    running.wait_for_events(500)
    assert "held back" not in running.stderr

    began = time.monotonic()
    database.execute(
        "begin; insert into note values (1), (2), (3), (4), (5), (6); insert into other values (501); commit"
    )
    running.wait_for_events(507)
    assert time.monotonic() - began > 2.2
    assert [each["wal"]["table"] for each in running.events[500:]] == ["note"] * 6 + ["other"]
    assert "held back by limits" in running.stderr
    assert running.stop() == Exit.OK


def test_a_signal_ends_it_at_once_and_what_was_held_back_comes_after_the_next_start(
    database: Database, bridge: Any
) -> None:
    tables(database, "note")
    limited = bridge(config=config(database, limits={"events_per_second": 5}))
    limited.wait_until_streaming()
    for number in range(20):
        database.execute("insert into note values (%s)", (number,))
    database.execute("insert into note select generate_series(20, 20000)")
    limited.wait_for_events(10)

    assert limited.stop() == Exit.OK

    again = bridge(config=config(database))
    again.wait_until_streaming()
    database.wait_until_confirmed()
    # Whole transactions that were sent do not come again.
    first = ids(limited)
    assert first == [*range(len(first))]
    assert ids(again) == [*range(min(len(first), 20), 20_001)]
    assert again.stop() == Exit.OK


def test_exactly_once_a_stop_amid_a_transaction_repeats_nothing(
    database: Database, kafka: Kafka, prefix: str, bridge: Any
) -> None:
    database.execute("create table note (id int primary key); grant select on note to anon")
    for role in ("anon", "postgres"):
        database.subscribe("note", role=role)
    settings = config(database, sink=kafka_sink(kafka, prefix), delivery="exactly_once")
    settings["limits"] = {"events_per_second": 20}
    running = bridge(config=settings)
    running.wait_until_streaming()
    database.execute("insert into note select generate_series(1, 200)")
    running.wait_for(lambda: len(from_kafka(kafka, f"{prefix}public.note")) > 10, "some events")
    assert running.stop() == Exit.OK
    before = len(from_kafka(kafka, f"{prefix}public.note"))
    assert before < 400

    del settings["limits"]
    again = bridge(config=settings)
    database.wait_until_confirmed()
    messages = from_kafka(kafka, f"{prefix}public.note")
    assert len({each.id for each in messages}) == len(messages) == 400
    assert again.stop() == Exit.OK
