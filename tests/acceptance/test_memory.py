"""A transaction of a million rows passes in little memory, with the broker frozen in the middle of it."""

import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from bridge.errors import Exit
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until

ROWS = 1_000_000
MEMORY_KB = 200 * 1000
"""Resident, at its highest."""
FROZEN_AT = 100_000
PATIENCE_SECONDS = 6


class KafkaTopic:
    """Where the events go, and how many have come."""

    def __init__(self, server: Kafka, prefix: str) -> None:
        self.server = server
        self._topic = f"{prefix}public.note"
        self.sink = {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": server.servers}}}
        self._consumer = Consumer({"bootstrap.servers": server.servers, "group.id": "counts"})

    def count(self) -> int:
        partitions = self._consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        return sum(int(self._consumer.get_watermark_offsets(place, timeout=10)[1]) for place in places)

    def close(self) -> None:
        self._consumer.close()
        admin = self.server.admin
        for future in admin.delete_topics([self._topic]).values():
            future.result()


class RabbitQueue:
    """A queue that keeps the newest messages only; how many came is the broker's own count."""

    def __init__(self, server: RabbitMQ, prefix: str) -> None:
        self.server = server
        self._queue = f"{prefix}inbox"
        bound = {"name": self._queue, "bindings": {f"{prefix}public.note": "#"}}
        self.sink = {"rabbitmq": {"prefix": prefix, "url": server.url, "queues": [bound]}}
        with server.connect() as connection:
            connection.channel().queue_declare(self._queue, durable=True, arguments={"x-max-length": 1000})
        self._before = self._routed()

    def _routed(self) -> int:
        counters = self.server.control("eval", "rabbit_global_counters:overview().")
        (found,) = re.findall(r"protocol,amqp091}\] =>.*?messages_routed_total => (\d+)", counters, re.DOTALL)
        return int(found)

    def count(self) -> int:
        return self._routed() - self._before

    def close(self) -> None:
        with self.server.connect() as connection:
            connection.channel().queue_delete(self._queue)


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest, prefix: str) -> Iterator[KafkaTopic | RabbitQueue]:
    server = request.getfixturevalue(request.param)
    found = KafkaTopic(server, prefix) if isinstance(server, Kafka) else RabbitQueue(server, prefix)
    yield found
    found.close()


def highest_kb(pid: int) -> int:
    """The most memory that a process has had resident."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


SENDER = "select pid, client_port from pg_replication_slots join pg_stat_replication on pid = active_pid where slot_name = %s"


def unread(port: int) -> int:
    """The bytes that came to the local port and that nobody has read."""
    lines = pathlib.Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
    (found,) = [fields for line in lines if (fields := line.split())[1].endswith(f":{port:04X}")]
    return int(found[4].partition(":")[2], 16)


def is_still(port: int) -> int:
    """What is unread, where that stays the same for a while."""
    before = unread(port)
    for _ in range(20):
        time.sleep(0.1)
        if unread(port) != before:
            return 0
    return before


@pytest.mark.timeout(1800)
def test_a_million_rows_in_one_transaction_pass_though_the_broker_freezes(
    database: Database, broker: KafkaTopic | RabbitQueue, bridge: Any, tell: Callable[[str], None]
) -> None:
    database.execute(f"alter database {database.name} set wal_sender_timeout = '{PATIENCE_SECONDS}s'")
    database.execute("create table note (id int primary key)")
    database.subscribe("note")
    source = {"connection": database.dsn, "slot": database.slot}
    running = bridge(config={"source": source, "sink": broker.sink, "http": {"listen": None}})
    running.wait_until_streaming()
    database.execute("insert into note select generate_series(1, %s::int)", (ROWS,))
    started = time.monotonic()

    running.wait_for(lambda: broker.count() >= FROZEN_AT, "the transaction's beginning", 300)
    assert broker.count() < ROWS
    broker.server.pause()
    frozen = time.monotonic()
    try:
        walsender, port = database.execute(SENDER, (database.slot,))[0]
        left = wait_until(lambda: is_still(port), "nobody reading what the walsender writes")
        held = highest_kb(running.process.pid)
        time.sleep(PATIENCE_SECONDS + 2)
        assert unread(port) == left
        assert highest_kb(running.process.pid) < held + 1000
        assert database.execute(SENDER, (database.slot,)) == [(walsender, port)], "the stream was not lost"
    finally:
        broker.server.resume()
    frozen = time.monotonic() - frozen

    database.wait_until_confirmed(1200)
    took = time.monotonic() - started - frozen
    highest = highest_kb(running.process.pid)
    tell(f"{ROWS} rows in {took:.0f} s besides the {frozen:.0f} s of the freeze, {highest} kB")
    assert broker.count() == ROWS
    assert highest < MEMORY_KB
    assert running.stop() == Exit.OK
