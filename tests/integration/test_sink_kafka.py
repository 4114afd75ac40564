"""The Kafka sink against a real broker."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Message
from confluent_kafka.cimpl import NewPartitions, NewTopic

from bridge.cluster import free_port
from bridge.config import CreateTopics
from bridge.config import Kafka as KafkaConfig
from bridge.errors import SinkRefused, SinkUnreachable
from bridge.event import Event
from bridge.sinks import kafka_topics
from bridge.sinks.kafka import KafkaSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.kafka import Kafka
from tests.servers.waiting import PATIENCE

Opener = Callable[..., Driver]


@pytest.fixture
def opened(kafka: Kafka, prefix: str) -> Iterator[Opener]:
    """An open sink: `opened(**config)`; with `tables` for those that are subscribed to."""
    drivers: list[Driver] = []

    def open_sink(
        tables: list[tuple[str, str]] | None = None, client: dict[str, Any] | None = None, **config: Any
    ) -> Driver:
        settings = {"bootstrap.servers": kafka.servers, **(client or {})}
        drivers.append(Driver(KafkaSink(KafkaConfig(prefix=prefix, client=settings, **config))))
        drivers[-1].sink.open([TABLE] if tables is None else tables)
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.sink.close()


def ids(messages: list[Message]) -> list[str]:
    return [dict(message.headers() or [])["id"].decode() for message in messages]


def make_topic(kafka: Kafka, name: str, **settings: str) -> None:
    admin = kafka.admin  # kept until it has answered
    admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result()


# -- what arrives -------------------------------------------------------------------------------------------------


def test_an_event_arrives_with_its_key_value_and_headers(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    event = an_event(
        headers=[("id", "7409-1/x"), ("lsn", "0/1"), ("role", "größe"), ("content-type", "application/json")]
    )

    driver.send(event)
    driver.drain()

    (message,) = kafka.read(f"{prefix}public.book")
    assert (message.key(), message.value()) == (event.key, event.value)
    assert message.headers() == [(name, value.encode()) for name, value in event.headers]


def test_an_event_without_key_values_has_no_key(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()

    driver.send(an_event(key=None))
    driver.drain()

    assert kafka.read(f"{prefix}public.book")[0].key() is None


def test_dead_letters_have_a_topic_of_their_own(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()

    driver.send(an_event(dead_letter=True, key=b"the id"))
    driver.drain()

    assert [message.key() for message in kafka.read(f"{prefix}dead-letter")] == [b"the id"]
    assert kafka.read(f"{prefix}public.book") == []


def test_a_key_has_the_partition_that_java_clients_give_it(kafka: Kafka, prefix: str, opened: Opener) -> None:
    hashes = {  # from the Java clients' own test of Utils.murmur2
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    driver = opened()

    driver.send(*(an_event(key=key) for key in hashes))
    driver.drain()

    found = {message.key(): message.partition() for message in kafka.read(f"{prefix}public.book")}
    assert found == {key: (value & 0x7FFFFFFF) % 6 for key, value in hashes.items()}


def test_events_of_one_key_keep_their_order(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    events = [an_event(number, key=b'{"id":%d}' % (number % 5)) for number in range(5000)]

    driver.send(*events)
    driver.drain()

    arrived: dict[bytes, list[str]] = {}
    for message in kafka.read(f"{prefix}public.book"):
        arrived.setdefault(message.key(), []).append(dict(message.headers())["id"].decode())
    for key, found in arrived.items():
        assert found == [event.id for event in events if event.key == key]


# -- topics -------------------------------------------------------------------------------------------------------


def test_topics_are_made_at_start_as_configured(kafka: Kafka, prefix: str, opened: Opener) -> None:
    opened(tables=[TABLE, ("Über", "a.b")], create_topics=CreateTopics(partitions=3))

    made = {name: count for name, count in kafka.topics().items() if name.startswith(prefix)}
    assert made == {f"{prefix}public.book": 3, f"{prefix}-C3-9Cber.a-2Eb": 3, f"{prefix}dead-letter": 3}


def test_a_table_s_first_event_makes_its_topic_without_blocking(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(tables=[])
    event = an_event()

    began = time.monotonic()
    taken = driver.sink.send(event, driver.checkpoint.current)
    took = time.monotonic() - began

    assert (taken, driver.in_flight) == (False, 0)
    assert took < 0.1
    driver.send(event)
    driver.drain()
    assert ids(kafka.read(f"{prefix}public.book")) == [event.id]
    assert kafka.topics()[f"{prefix}public.book"] == 6


def test_a_topic_that_is_there_is_left_as_it_is(kafka: Kafka, prefix: str, opened: Opener) -> None:
    make_topic(kafka, f"{prefix}public.book")
    driver = opened()

    driver.send(an_event())
    driver.drain()

    assert kafka.topics()[f"{prefix}public.book"] == 1


def test_a_missing_topic_that_may_not_be_created_says_how_to(kafka: Kafka, prefix: str, opened: Opener) -> None:
    with pytest.raises(
        SinkRefused, match=f"kafka-topics.sh --bootstrap-server {kafka.servers} --create --topic {prefix}"
    ):
        opened(create_topics=False)

    assert not [name for name in kafka.topics() if name.startswith(prefix)], "the broker made it"


def test_nor_may_it_at_a_table_s_first_event(kafka: Kafka, prefix: str, opened: Opener) -> None:
    make_topic(kafka, f"{prefix}dead-letter")
    driver = opened(tables=[], create_topics=None)

    with pytest.raises(SinkRefused, match=f"--create --topic {prefix}public.book"):
        driver.send(an_event())

    assert f"{prefix}public.book" not in kafka.topics(), "the broker made it"


def test_a_topic_that_cannot_be_created_says_why(prefix: str, opened: Opener) -> None:
    with pytest.raises(SinkRefused, match=rf"topic {prefix}\S+ cannot be created: .*[Rr]eplication factor"):
        opened(create_topics=CreateTopics(replication_factor=7))


def test_names_that_kafka_takes_for_one_are_refused(opened: Opener) -> None:
    driver = opened(
        tables=[TABLE],
        topics={"public_book.x": "t_public.book", "public.book": "t.public.book"},
    )

    driver.send(an_event(1), an_event(2, schema="public_book", table="x"))
    driver.drain()

    (rejection,) = driver.rejections
    assert "clashes with that of public.book" in rejection.reason
    assert not rejection.too_large


def test_partitions_added_in_mid_stream_are_used_and_nothing_is_lost(kafka: Kafka, prefix: str, opened: Opener) -> None:
    topic = f"{prefix}public.book"
    driver = opened(
        create_topics=CreateTopics(partitions=1), client={"topic.metadata.refresh.interval.ms": 500, "linger.ms": 0}
    )
    driver.send(*(an_event(number) for number in range(1000)))
    admin = kafka.admin  # kept until it has answered
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result()

    sent = 1000
    end = time.monotonic() + PATIENCE
    while {message.partition() for message in kafka.read(topic)} != set(range(4)):
        assert time.monotonic() < end, "the new partitions stay empty"
        driver.send(*(an_event(number) for number in range(sent, sent + 100)))
        driver.drain()
        sent += 100

    assert sorted(ids(kafka.read(topic))) == sorted(an_event(number).id for number in range(sent))


def test_a_topic_deleted_in_mid_stream_stops_the_bridge(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(client={"topic.metadata.propagation.max.ms": 1000})
    driver.send(an_event())
    driver.drain()

    admin = kafka.admin  # kept until it has answered
    admin.delete_topics([f"{prefix}public.book"])[f"{prefix}public.book"].result()

    driver.send(an_event(2))
    with pytest.raises(SinkRefused, match=f"topic {prefix}public.book is not there any more"):
        driver.drain()
    assert driver.in_flight == 1


# -- acknowledgement ----------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_while_the_broker_is_frozen(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(0))
    driver.drain()
    kafka.pause()
    try:
        driver.send(*(an_event(number) for number in range(1, 101)))
        driver.poll_for(1.5)
        assert driver.in_flight == 100
    finally:
        kafka.resume()

    driver.drain()

    assert sorted(ids(kafka.read(f"{prefix}public.book"))) == [an_event(number).id for number in range(101)]


def test_nothing_is_lost_repeated_or_reordered_when_the_broker_dies(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(create_topics=CreateTopics(partitions=1), client={"reconnect.backoff.max.ms": 500})
    driver.send(*(an_event(number) for number in range(1000)))
    kafka.kill()
    try:
        driver.send(*(an_event(number) for number in range(1000, 2000)))
        driver.poll_for(1)
        assert driver.in_flight >= 1000
    finally:
        kafka.restart()

    driver.drain()

    assert ids(kafka.read(f"{prefix}public.book")) == [an_event(number).id for number in range(2000)]


def test_nothing_piles_up_in_either_client_while_the_broker_is_away(kafka: Kafka, opened: Opener) -> None:
    driver = opened(client={"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20})
    kafka.kill()
    try:
        driver.poll_for(2)
        driver.poll()
        assert len(driver.sink._topics._admin) < 5
    finally:
        kafka.restart()


def test_a_full_queue_is_told_and_takes_again(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(client={"queue.buffering.max.messages": 100})
    kafka.pause()
    try:
        assert driver.send_while_it_takes(an_event(number) for number in range(200)) == 100
        assert driver.in_flight == 100
    finally:
        kafka.resume()

    driver.send(*(an_event(number) for number in range(100, 200)))
    driver.drain()

    assert sorted(ids(kafka.read(f"{prefix}public.book"))) == [an_event(number).id for number in range(200)]


def test_closing_waits_for_nothing_and_acknowledges_nothing(kafka: Kafka, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(0))
    driver.drain()
    kafka.pause()
    try:
        driver.send(*(an_event(number) for number in range(1, 101)))
        driver.poll_for(0.2)

        began = time.monotonic()
        driver.sink.close()
        took = time.monotonic() - began
    finally:
        kafka.resume()

    assert took < 1
    assert driver.in_flight == 100


# -- what cannot be delivered -------------------------------------------------------------------------------------


def large(number: int, size: int) -> Event:
    return an_event(number, value=b"x" * size)


def test_an_event_larger_than_the_client_takes_is_rejected(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()

    driver.send(an_event(1), large(2, 2_000_000), an_event(3))
    driver.drain()

    assert [rejection.event.id for rejection in driver.rejections] == [an_event(2).id]
    assert "larger than Kafka takes" in driver.rejections[0].reason
    assert driver.in_flight == 1, "it is the loop that acknowledges what it has buried"
    assert sorted(ids(kafka.read(f"{prefix}public.book"))) == [an_event(1).id, an_event(3).id]


def test_an_event_larger_than_the_topic_takes_is_rejected_alone(kafka: Kafka, prefix: str, opened: Opener) -> None:
    make_topic(kafka, f"{prefix}public.book", **{"max.message.bytes": "20000"})
    driver = opened(client={"linger.ms": 50})

    driver.send(
        *(an_event(number) for number in range(300)), large(300, 30_000), *(an_event(n) for n in range(301, 600))
    )
    driver.drain()

    assert [rejection.event.id for rejection in driver.rejections] == [an_event(300).id]
    assert ids(kafka.read(f"{prefix}public.book")) == [an_event(number).id for number in range(600) if number != 300]


@pytest.mark.parametrize("tables", [[TABLE], []], ids=["known at start", "of later"])
def test_of_a_batch_for_a_compacted_topic_only_what_has_no_key_is_rejected(
    kafka: Kafka, prefix: str, opened: Opener, tables: list[tuple[str, str]]
) -> None:
    make_topic(kafka, f"{prefix}public.book", **{"cleanup.policy": "compact"})
    driver = opened(tables=tables, client={"linger.ms": 50})
    without_key = an_event(150, key=None)

    driver.send(*(without_key if number == 150 else an_event(number) for number in range(300)))
    driver.drain()

    assert [rejection.event.id for rejection in driver.rejections] == [without_key.id]
    assert f"topic {prefix}public.book is compacted" in driver.rejections[0].reason
    assert driver.in_flight == 1
    assert ids(kafka.read(f"{prefix}public.book")) == [an_event(number).id for number in range(300) if number != 150]


def test_a_batch_too_large_for_a_topic_of_later_says_what_to_do(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(tables=[], client={"linger.ms": 50})
    make_topic(kafka, f"{prefix}public.book", **{"max.message.bytes": "2000"})

    driver.send(*(an_event(number) for number in range(300)))
    with pytest.raises(SinkRefused, match="max.message.bytes: start again"):
        driver.drain()

    assert driver.in_flight > 0
    assert driver.rejections == []


# -- at start -----------------------------------------------------------------------------------------------------


def test_no_broker_is_unreachable_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "OPEN_SECONDS", 2.0)
    address = f"127.0.0.1:{free_port()}"
    sink = KafkaSink(KafkaConfig(client={"bootstrap.servers": address}))

    began = time.monotonic()
    with pytest.raises(SinkUnreachable, match=address):
        sink.open([TABLE])

    assert time.monotonic() - began < 4
    sink.close()


def test_polling_before_it_is_open_is_harmless() -> None:
    sink = KafkaSink(KafkaConfig())

    assert list(sink.poll(0)) == []
    sink.close()
