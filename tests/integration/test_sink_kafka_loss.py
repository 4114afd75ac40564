"""The Kafka sink and a broker, or a topic, that has lost what it had acknowledged: it is said, never passed over."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import SinkRefused
from bridge.sinks import kafka_watch
from bridge.sinks.kafka import KafkaSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.integration.test_sink_kafka import make_topic
from tests.servers.kafka import Kafka
from tests.servers.process import running

Opener = Callable[..., Driver]
SOON = {"reconnect.backoff.max.ms": 500}


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    """One whose data may be lost."""
    with running(Kafka) as server:
        yield server


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_watch, "CALM_SECONDS", 1.0)
    monkeypatch.setattr(kafka_watch, "MISSING_SECONDS", 2.0)


@pytest.fixture
def opened(broker: Kafka, prefix: str) -> Iterator[Opener]:
    drivers: list[Driver] = []

    def open_sink(**client: Any) -> Driver:
        settings = {"bootstrap.servers": broker.servers, **SOON, **client}
        config = KafkaConfig(prefix=prefix, client=settings, create_topics=CreateTopics(partitions=1))
        drivers.append(Driver(KafkaSink(config)))
        drivers[-1].sink.open([TABLE])
        watch: Any = drivers[-1].sink._topics._watch  # type: ignore[attr-defined]
        drivers[-1].poll_until(lambda: watch._cluster_id and len(watch._topic_ids) == 2, "the ids to compare with")
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.sink.close()


def lost(driver: Driver) -> Any:
    sink: Any = driver.sink
    return sink._topics.lost


def delete_topic(broker: Kafka, name: str) -> None:
    admin = broker.admin
    admin.delete_topics([name])[name].result()


def test_a_broker_that_comes_back_empty_stops_the_bridge(broker: Kafka, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(1))
    driver.drain()
    broker.kill()
    broker.format()
    broker.restart()

    driver.send(an_event(2))
    with pytest.raises(SinkRefused, match="is another cluster than before.*came back empty"):
        driver.poll_until(lambda: False, "the refusal")

    assert driver.in_flight == 1


def test_a_broker_that_comes_back_empty_under_its_old_id_stops_the_bridge(
    broker: Kafka, prefix: str, opened: Opener
) -> None:
    """As where a container's volume is lost, and its cluster id is in its settings."""
    admin = broker.admin  # kept until it has answered
    old = admin.describe_cluster().result().cluster_id
    driver = opened()
    driver.send(an_event(1))
    driver.drain()
    broker.kill()
    broker.format(old)
    broker.restart()
    make_topic(broker, f"{prefix}public.book")  # another client's doing

    with pytest.raises(SinkRefused, match=f"topic {prefix}public.book is another one than before"):
        driver.poll_until(lambda: driver.send(an_event(2)), "the refusal")


def test_a_topic_made_anew_takes_no_events_before_it_is_said(broker: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(1))
    driver.drain()
    delete_topic(broker, f"{prefix}public.book")
    make_topic(broker, f"{prefix}public.book")
    driver.poll_until(lambda: lost(driver), "it is noticed")

    with pytest.raises(SinkRefused, match=f"topic {prefix}public.book is another one than before"):
        driver.send(an_event(2))


def test_a_deleted_topic_is_no_matter_until_there_is_an_event_for_it(
    broker: Kafka, prefix: str, opened: Opener
) -> None:
    driver = opened()
    driver.send(an_event(1))
    driver.drain()
    delete_topic(broker, f"{prefix}public.book")
    driver.poll_until(lambda: lost(driver), "it is noticed")

    with pytest.raises(SinkRefused, match=f"topic {prefix}public.book is not there any more"):
        driver.send(an_event(2))


def test_a_broker_that_has_lost_its_tail_stops_the_bridge(broker: Kafka, prefix: str, opened: Opener) -> None:
    """As after a power cut, where it had acknowledged what was not on the disk yet."""
    driver = opened()
    for number in range(10):
        driver.send(an_event(number))
        driver.drain()
    broker.kill()
    log = broker.home / "data" / f"{prefix}public.book-0" / "00000000000000000000.log"
    os.truncate(log, log.stat().st_size // 2)
    broker.restart()

    driver.send(an_event(10))
    with pytest.raises(SinkRefused, match="Kafka has lost events that it had acknowledged.* The position is unmoved"):
        driver.poll_until(lambda: False, "the refusal")

    assert driver.in_flight == 1
