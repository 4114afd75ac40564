"""Kafka lacks a replica, then dies and comes back empty; and RabbitMQ runs out of memory."""

import json
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.cimpl import NewTopic

from bridge.cluster import free_port
from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.acceptance.topics import header
from tests.servers.kafka import Kafka
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until


@pytest.fixture
def brokers() -> Iterator[tuple[Kafka, Kafka]]:
    """Two, the first of which is the controller too. Their data may be lost."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="walrus-bridge-kafka-"))
    controllers, cluster = {1: free_port()}, str(uuid.uuid4())
    servers = []
    try:
        for node in (1, 2):
            (home / str(node)).mkdir()
            servers.append(Kafka(home / str(node), node=node, controllers=controllers, cluster=cluster, memory="384m"))
            servers[-1].launch()
        for server in servers:
            server.wait()
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.kill()
        shutil.rmtree(home, ignore_errors=True)


def test_broker_lost(desk: Desk, brokers: tuple[Kafka, Kafka], rabbitmq: RabbitMQ) -> None:
    database, topic = desk.database, f"{desk.prefix}public.book"
    kafka, replica = brokers
    make(kafka, topic, in_sync="2")
    make(kafka, f"{desk.prefix}dead-letter", in_sync="1")
    database.execute("create table book (id int primary key, title text)")
    database.subscribe("book")
    desk.has_kafka(kafka)
    to_kafka = {"create_topics": {"partitions": 1}, "client": {"bootstrap.servers": kafka.servers}}
    settings = desk.settings({"kafka": to_kafka}, source={"replay_window": "1h"})
    running = desk.start(settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    database.execute("insert into book values (1, 'Foo')")
    database.wait_until_confirmed()
    book = desk.book("broker-lost")
    book.bind("127.0.0.1:9092", kafka.servers)

    # A replica is missing.
    replica.kill()
    database.execute("insert into book values (2, 'Bar')")
    running.wait_for(lambda: "in_sync=1 leader=True" in running.stderr, "the log line")
    book.found_in(running.stderr)
    book.run()
    database.wait_until_confirmed()
    running.wait_for(lambda: "kafka has the replicas again that it needs" in running.stderr, "the all-clear")
    of_consumers, _ = kafka.read(topic)

    # The other one dies as well, and comes back empty.
    database.execute("insert into book values (3, 'Baz')")
    database.wait_until_confirmed()
    kafka.kill()
    database.execute("insert into book values (4, 'Qux')")
    kafka.format()
    kafka.start()
    assert running.wait() == Exit.SINK_REFUSED
    book.found_in(running.stderr)
    running = desk.start(settings)
    database.wait_until_confirmed()
    assert titles(kafka, topic) == ["Qux"]
    book.bind(
        "7712196999965110589-1/000000000159F790/000000000159EE10/00000000/public.book/postgres",
        header(of_consumers, "id"),
    )
    book.run(until="rabbitmq-diagnostics")
    assert sorted(titles(kafka, topic)) == ["Bar", "Baz", "Foo", "Qux", "Qux"]
    assert running.stop() == Exit.OK

    # RabbitMQ has no memory left.
    desk.has_rabbitmq(rabbitmq)
    book.bind("rabbit@localhost", rabbitmq.environment["RABBITMQ_NODENAME"])
    book.bind("realtime.books", f"{desk.prefix}books")
    queue = {"name": f"{desk.prefix}books", "bindings": {topic: "#"}}
    running = desk.start(desk.settings({"rabbitmq": {"url": rabbitmq.url, "queues": [queue]}}))
    database.execute("insert into book values (5, 'Quux')")
    database.wait_until_confirmed()
    try:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")
        wait_until(lambda: "memory" in rabbitmq.control("eval", "rabbit_alarm:get_alarms()."), "the alarm")
        database.execute("insert into book values (6, 'Corge')")
        running.wait_for(lambda: "rabbitmq blocks publishers reason='low on memory'" in running.stderr, "the log line")
        book.run(until="walrus-bridge status")
        database.wait_until_confirmed()
        book.run()
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.4")
    book.finished()
    with rabbitmq.connect() as connection:
        assert connection.channel().queue_declare(f"{desk.prefix}books", passive=True).method.message_count == 2
    assert running.stop() == Exit.OK


def make(kafka: Kafka, topic: str, in_sync: str) -> None:
    settings = {"min.insync.replicas": in_sync, "cleanup.policy": "compact" if "dead-letter" in topic else "delete"}
    admin = kafka.admin
    admin.create_topics([NewTopic(topic, 1, replica_assignment=[[2, 1]], config=settings)])[topic].result(10)


def titles(kafka: Kafka, topic: str) -> list[str]:
    return [json.loads(message.value() or b"")["wal"]["record"]["title"] for message in kafka.read(topic)]
