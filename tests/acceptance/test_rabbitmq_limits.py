"""RabbitMQ at its limits: full queues, alarms, and heartbeats while the bridge waits for something else."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from bridge.errors import Exit
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until

# The bridge, but that gives a refused event up after 5 seconds.
IMPATIENT = """
from bridge.sinks import rabbitmq
rabbitmq.REFUSED_SECONDS = 5.0
from bridge.cli import main
main()
"""


class Broker:
    """The server, with a queue for each table."""

    def __init__(self, server: RabbitMQ, prefix: str) -> None:
        self.server = server
        self.prefix = prefix

    def sink(self, *tables: str, url: str = "") -> dict[str, Any]:
        queues = [{"name": f"{self.prefix}{each}", "bindings": {f"{self.prefix}public.{each}": "#"}} for each in tables]
        return {"rabbitmq": {"prefix": self.prefix, "url": self.server.url + url, "queues": queues}}

    def limit(self, queue: str, length: int) -> None:
        """Make the queue, one that refuses what it has no room for."""
        arguments = {"x-max-length": length, "x-overflow": "reject-publish"}
        with self.server.connect() as connection:
            connection.channel().queue_declare(f"{self.prefix}{queue}", durable=True, arguments=arguments)

    def take(self, queue: str) -> list[Any]:
        """What the queue holds, as JSON; it is empty then."""
        found = []
        with self.server.connect() as connection:
            channel = connection.channel()
            while (message := channel.basic_get(f"{self.prefix}{queue}", auto_ack=True))[0] is not None:
                found.append(json.loads(message[2]))
        return found

    def connections(self, heartbeat: int) -> list[str]:
        """The broker's process ids of the connections with that heartbeat."""
        lines = self.server.control("list_connections", "pid", "timeout", "--silent").splitlines()
        return [line.split()[0] for line in lines if line.split()[1:] == [str(heartbeat)]]


@pytest.fixture
def broker(rabbitmq: RabbitMQ, prefix: str) -> Broker:
    return Broker(rabbitmq, prefix)


@pytest.fixture
def run(database: Database, bridge: Any) -> Callable[..., BridgeProcess]:
    """Start the bridge with that sink and these sections; it streams when this returns."""

    def start(sink: dict[str, Any], program: tuple[str, ...] = ("-m", "bridge"), **sections: Any) -> BridgeProcess:
        source = {"connection": database.dsn, "slot": database.slot}
        settings = {"source": source, "sink": sink, "http": {"listen": None}, **sections}
        running: BridgeProcess = bridge(config=settings, program=program)
        running.wait_until_streaming()
        return running

    return start


def ids(events: list[Any]) -> list[int]:
    return [event["wal"]["record"]["id"] for event in events]


# -- full queues ----------------------------------------------------------------------------------------------------


def test_what_a_full_queue_refuses_becomes_a_dead_letter_and_others_do_not_wait(
    database: Database, broker: Broker, run: Callable[..., BridgeProcess]
) -> None:
    database.execute("""
        create table note (id int primary key, body text default repeat('x', 100));
        create table other (id int primary key);
    """)
    database.subscribe("note")
    database.subscribe("other")
    broker.limit("note", 1)
    running = run(broker.sink("note", "other"))
    database.execute("insert into note values (1)")
    database.wait_until_confirmed()

    # While it is patient, which it is for a minute
    position = database.commit("insert into note values (2), (3)")
    database.execute("insert into other values (4)")
    assert ids(wait_until(lambda: broker.take("other"), "the other table's event")) == [4]
    assert not database.is_past(position)
    running.kill()

    # And once its patience is over
    running = run(broker.sink("note", "other"), ("-c", IMPATIENT))
    database.wait_until_confirmed()
    letters = [each["dead_letter"] for each in broker.take("dead-letter")]
    records = sorted((letter["change"]["record"] for letter in letters), key=lambda record: record["id"])
    assert records == [{"id": 2, "body": "x" * 100}, {"id": 3, "body": "x" * 100}]
    assert all("has refused it for 5 s" in letter["reason"] for letter in letters)
    assert ids(broker.take("note")) == [1]
    database.execute("insert into note values (5)")
    database.wait_until_confirmed()
    assert ids(broker.take("note")) == [5]
    assert running.stop() == Exit.OK


def test_or_it_stops_the_bridge_with_the_position_unmoved(
    database: Database, broker: Broker, run: Callable[..., BridgeProcess]
) -> None:
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    broker.limit("note", 1)
    running = run(broker.sink("note"), ("-c", IMPATIENT), on_failure="stop")
    database.execute("insert into note values (1)")
    database.wait_until_confirmed()

    position = database.commit("insert into note values (2)")
    assert running.wait() == Exit.POISON
    assert "has refused it for 5 s" in running.stderr
    assert not database.is_past(position)
    assert broker.take("dead-letter") == []

    assert ids(broker.take("note")) == [1]
    run(broker.sink("note"), on_failure="stop")
    database.wait_until_confirmed()
    assert ids(broker.take("note")) == [2]


# -- alarms ---------------------------------------------------------------------------------------------------------

ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
}


@pytest.mark.parametrize("alarm", ALARMS)
def test_while_an_alarm_blocks_reading_stops_and_status_updates_go_on(
    database: Database, broker: Broker, run: Callable[..., BridgeProcess], alarm: str
) -> None:
    raised, over = ALARMS[alarm]
    database.execute("create table note (id int primary key, body text)")
    database.execute("alter table note alter body set storage external")
    database.subscribe("note")
    running = run(broker.sink("note"), limits={"in_flight": "64KiB"})

    def sender(column: str) -> Any:
        """Of pg_stat_replication."""
        query = (
            f"select ({column})::text from pg_stat_replication"
            " where pid = (select active_pid from pg_replication_slots where slot_name = %s)"
        )
        return database.execute(query, (database.slot,))

    def stands_still() -> Any:
        """How far the walsender is, where that is the same three status updates later."""
        before = sender("pid, sent_lsn")
        for _ in range(3):
            known = sender("reply_time")
            wait_until(lambda known=known: sender("reply_time") != known, "a status update")
        return before if sender("pid, sent_lsn") == before else None

    broker.server.control(*raised)
    try:
        for number in range(40):
            database.execute(
                "insert into note select n, repeat('x', 10000) from generate_series(%s::int, %s) n",
                (number * 100, number * 100 + 99),
            )
        running.wait_for(lambda: "rabbitmq blocks publishers" in running.stderr, "blocked")
        wait_until(stands_still, "no reading, and status updates")
        ((left,),) = sender("pg_current_wal_lsn() - sent_lsn")
        assert int(left) > 10_000_000, "not all is read"
        assert "source lost" not in running.stderr
    finally:
        broker.server.control(*over)

    database.wait_until_confirmed()
    assert ids(broker.take("note")) == list(range(4000))
    assert running.stop() == Exit.OK


# -- heartbeats -----------------------------------------------------------------------------------------------------


def test_heartbeats_go_on_while_postgresql_is_silent_and_while_a_judgement_waits_for_a_lock(
    database: Database, broker: Broker, run: Callable[..., BridgeProcess]
) -> None:
    database.execute("""
        create table member (id int primary key);
        insert into member values (1);
        create table note (id int primary key);
        grant select on note, member to anon;
        alter table note enable row level security;
        create policy members on note to anon using (exists (select from public.member m where m.id = note.id));
    """)
    database.subscribe("note", role="anon")
    running = run(broker.sink("note", url="?heartbeat=4"))
    ours = broker.connections(heartbeat=4)
    assert len(ours) == 1

    time.sleep(12)
    assert broker.connections(heartbeat=4) == ours, "silence"
    with database.connect() as locker:
        locker.execute("begin; lock table member in access exclusive mode")
        database.execute("insert into note values (1)")
        time.sleep(12)
        assert broker.connections(heartbeat=4) == ours, "waiting for the lock"
        assert broker.take("note") == []
        locker.execute("commit")
    database.wait_until_confirmed()

    assert ids(broker.take("note")) == [1]
    assert "rabbitmq lost" not in running.stderr
    assert running.stop() == Exit.OK
