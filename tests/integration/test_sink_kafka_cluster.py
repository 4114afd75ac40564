"""The Kafka sink and a cluster of three brokers, each of which holds everything; two must have an event."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import structlog
from confluent_kafka import Message
from confluent_kafka.cimpl import NewTopic

from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.event import Event
from bridge.sinks.kafka import KafkaSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.kafka import KafkaCluster

Opener = Callable[..., Driver]
TOPICS = CreateTopics(partitions=6, replication_factor=3)


@pytest.fixture
def opened(kafka_cluster: KafkaCluster, prefix: str) -> Iterator[Opener]:
    drivers: list[Driver] = []

    def open_sink(client: dict[str, Any] | None = None) -> Driver:
        settings = {"bootstrap.servers": kafka_cluster.servers, **(client or {})}
        drivers.append(Driver(KafkaSink(KafkaConfig(prefix=prefix, client=settings, create_topics=TOPICS))))
        drivers[-1].sink.open([TABLE])
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.sink.close()


@pytest.fixture
def whole(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """The cluster, made whole again after the test."""
    yield kafka_cluster
    for node in kafka_cluster.nodes:
        if node.has_ended:
            node.launch()
    kafka_cluster.wait_for(3)


def of_key(key: int, number: int) -> Event:
    return an_event(number, key=b'{"id":%d}' % key)


def numbers_by_key(messages: list[Message]) -> dict[bytes, list[int]]:
    """The numbers of each key's events, as the topic has them."""
    found: dict[bytes, list[int]] = {}
    for message in messages:
        event_id = dict(message.headers() or [])["id"].decode()
        found.setdefault(message.key() or b"", []).append(int(event_id.split("/")[2], 16))
    return found


def sent_by_key(keys: int, numbers: range) -> dict[bytes, list[int]]:
    return {b'{"id":%d}' % key: [number for number in numbers if number % keys == key] for key in range(keys)}


def test_a_node_that_dies_while_events_flow_loses_repeats_and_reorders_nothing(
    whole: KafkaCluster, prefix: str, opened: Opener
) -> None:
    driver = opened()
    driver.send(*(of_key(number % 50, number) for number in range(2000)))
    victim = random.choice(whole.nodes)
    victim.kill()
    driver.send(*(of_key(number % 50, number) for number in range(2000, 4000)))
    driver.drain()

    victim.launch()
    driver.send(*(of_key(number % 50, number) for number in range(4000, 6000)))
    driver.drain()
    whole.wait_for(3)

    assert numbers_by_key(whole.nodes[0].read(f"{prefix}public.book")) == sent_by_key(50, range(6000))


def test_with_two_of_three_dead_nothing_is_acknowledged_until_one_is_back(
    whole: KafkaCluster, prefix: str, opened: Opener
) -> None:
    driver = opened()
    driver.send(*(of_key(number % 50, number) for number in range(100)))
    driver.drain()
    for node in whole.nodes[:2]:
        node.kill()

    driver.send(*(of_key(number % 50, number) for number in range(100, 200)))
    driver.poll_for(5)
    assert driver.in_flight == 100

    whole.nodes[0].launch()
    driver.drain()
    assert numbers_by_key(whole.nodes[0].read(f"{prefix}public.book")) == sent_by_key(50, range(200))


def test_too_few_replicas_in_sync_acknowledge_nothing_and_it_is_said(
    whole: KafkaCluster, prefix: str, opened: Opener
) -> None:
    admin = whole.admin
    for name in ("public.book", "dead-letter"):
        new = NewTopic(f"{prefix}{name}", 1, 3, config={"min.insync.replicas": "3"})
        admin.create_topics([new])[new.topic].result()
    driver = opened()
    driver.send(*(of_key(0, number) for number in range(100)))
    driver.drain()
    with structlog.testing.capture_logs() as lines:
        whole.nodes[2].kill()
        whole.wait_for(2)

        driver.send(*(of_key(0, number) for number in range(100, 200)))
        driver.poll_until(lambda: said(lines), "what is missing")
        driver.poll_for(3)
        assert driver.in_flight == 100
        assert [line for line in said(lines) if line["needed"] == 3 and line["in_sync"] < 3] == said(lines)
        assert len(said(lines)) == 1, "once in a while"

        whole.nodes[2].launch()
        driver.drain()
        driver.poll_until(lambda: "kafka has the replicas again" in str(lines), "that they are back")
    assert numbers_by_key(whole.nodes[0].read(f"{prefix}public.book")) == sent_by_key(1, range(200))


def said(lines: Sequence[Any]) -> list[Any]:
    return [line for line in lines if "cannot acknowledge" in line["event"]]
