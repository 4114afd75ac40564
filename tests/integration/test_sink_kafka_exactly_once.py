"""The Kafka sink that delivers exactly once, against a real broker."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.cimpl import NewTopic

from bridge.config import Kafka as KafkaConfig
from bridge.errors import SinkAborted, SinkRefused
from bridge.event import Event
from bridge.lsn import Identity
from bridge.parts import smaller
from bridge.sinks import kafka_exactly_once
from bridge.sinks.base import Position, Rejection
from bridge.sinks.kafka_exactly_once import ExactlyOnceSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.kafka import Kafka

SERVER = Identity("7409", 1)
Opener = Callable[..., Driver]


@pytest.fixture
def opened(kafka: Kafka, prefix: str) -> Iterator[Opener]:
    """A sink that is open, and resumed: a bridge of the slot `books`."""
    drivers: list[Driver] = []

    def open_sink(slot: str = "books", *, resume: bool = True, client: dict[str, Any] | None = None) -> Driver:
        config = KafkaConfig(prefix=prefix, client={"bootstrap.servers": kafka.servers, **(client or {})})
        drivers.append(Driver(ExactlyOnceSink(config, slot)))
        drivers[-1].sink.open([TABLE])
        if resume:
            drivers[-1].sink.resume(SERVER)
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.sink.close()


def seen(kafka: Kafka, topic: str) -> list[str]:
    """The ids that a consumer of committed messages gets."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.servers,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[str] = []
        ended = 0
        while ended < len(partitions):
            message = consumer.poll(10)
            assert message is not None
            error = message.error()
            if error is None:
                found.append(dict(message.headers() or [])["id"].decode())
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                ended += 1
    finally:
        consumer.close()
    return sorted(found)


def of_another_role(event: Event) -> Event:
    event_id = event.id.replace("authenticated", "anon")
    return msgspec.structs.replace(event, id=event_id, headers=[("id", event_id), *event.headers[1:]])


def commit(driver: Driver, lsn: int) -> None:
    """The end of a transaction of PostgreSQL."""
    driver.checkpoint.commit(lsn)


def test_an_event_counts_with_its_transaction_and_so_does_the_position(
    kafka: Kafka, prefix: str, opened: Opener
) -> None:
    driver = opened()
    event = an_event()

    driver.send(event)
    assert seen(kafka, f"{prefix}public.book") == []
    commit(driver, 0x15E4E80)
    driver.drain()

    assert seen(kafka, f"{prefix}public.book") == [event.id]
    assert opened().sink.resume(SERVER) == Position("7409", 1, 0x15E4E80, event.order)


def test_a_group_may_end_inside_a_transaction(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    events = [an_event(number) for number in (1, 2)]

    driver.send(events[0])
    driver.drain()

    assert seen(kafka, f"{prefix}public.book") == [events[0].id]
    found = opened().sink.resume(SERVER)
    assert found is not None
    assert (found.end_lsn, found.last_event) == (0, events[0].order)


def test_a_change_s_events_are_never_apart(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened(client={"queue.buffering.max.messages": 1})
    first, second = an_event(), of_another_role(an_event())

    kafka.pause()
    try:
        driver.send(first)
        assert not driver.sink.send(second, driver.checkpoint.current)  # full, in the middle of a change
    finally:
        kafka.resume()
    driver.poll_for(0.5)
    assert seen(kafka, f"{prefix}public.book") == []  # though the group has been due for long
    driver.send(second)
    driver.drain()

    assert seen(kafka, f"{prefix}public.book") == sorted([first.id, second.id])


def test_what_was_not_committed_is_not_there_after_a_start(kafka: Kafka, prefix: str, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(1))
    commit(driver, 100)
    driver.drain()
    driver.send(an_event(2))
    driver.poll()

    again = opened()

    assert seen(kafka, f"{prefix}public.book") == [an_event(1).id]
    again.send(an_event(2))
    commit(again, 200)
    again.drain()
    assert seen(kafka, f"{prefix}public.book") == [an_event(1).id, an_event(2).id]


def test_a_second_instance_fences_off_the_first(kafka: Kafka, prefix: str, opened: Opener) -> None:
    first, second = opened(), opened()
    second.send(an_event(1))
    commit(second, 100)
    second.drain()

    first.send(an_event(1))
    commit(first, 100)
    with pytest.raises(SinkAborted):
        first.poll_until(lambda: False, "the abort")

    assert first.in_flight == 1
    assert seen(kafka, f"{prefix}public.book") == [an_event(1).id]


def test_after_an_abort_it_goes_on_at_its_position(kafka: Kafka, prefix: str, opened: Opener) -> None:
    first = opened()
    opened()
    first.send(an_event(1))
    with pytest.raises(SinkAborted):
        first.poll_until(lambda: False, "the abort")
    first.poll_for(0.1)  # said once

    assert first.sink.resume(SERVER) is None
    fresh = Driver(first.sink)
    fresh.send(an_event(1))
    commit(fresh, 100)
    fresh.drain()

    assert seen(kafka, f"{prefix}public.book") == [an_event(1).id]


def test_the_slot_is_confirmed_only_as_far_as_the_position_is_kept(opened: Opener) -> None:
    driver = opened()
    assert driver.sink.confirmable(50) == 50  # nothing is kept yet, nothing was sent
    driver.send(an_event(1))
    commit(driver, 100)
    driver.drain()

    assert driver.sink.confirmable(100) == 100
    assert driver.sink.confirmable(300) == 100
    driver.poll_until(
        lambda: driver.sink.confirmable(300) == 300, "the position's being kept where there are no events"
    )
    assert opened().sink.resume(SERVER) == Position("7409", 1, 300, an_event(1).order)


def test_each_slot_has_a_position_of_its_own(opened: Opener) -> None:
    driver = opened()
    driver.send(an_event())
    driver.drain()
    assert opened("papers").sink.resume(SERVER) is None


def test_the_newest_position_is_found_behind_what_was_given_up(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = opened()
    driver.send(an_event(1))
    commit(driver, 100)
    driver.drain()
    monkeypatch.setattr("bridge.sinks.kafka_position._LOOK_BACK", 1)
    monkeypatch.setattr(ExactlyOnceSink, "_commit", lambda *_: None)
    for number in range(2, 5):
        loser = opened()
        loser.send(an_event(number))
        loser.poll_for(0.2)

    assert opened().sink.resume(SERVER) == Position("7409", 1, 100, an_event(1).order)


def test_an_event_larger_than_the_topic_takes_is_rejected_and_the_group_waits_for_its_dead_letter(
    kafka: Kafka, prefix: str, opened: Opener
) -> None:
    admin = kafka.admin
    name = f"{prefix}public.book"
    admin.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "5000"})])[name].result()
    driver = opened()

    driver.send(an_event(1), an_event(2, value=b'"%s"' % (b"x" * 9000)))
    driver.poll_until(lambda: driver.rejections, "the rejection")
    driver.poll_for(0.3)
    assert seen(kafka, name) == []  # the position would be past what is not there

    (rejection,) = driver.rejections
    letter_id = rejection.event.id.rsplit("/", 1)[0]
    driver.send(an_event(2, id=letter_id, headers=[("id", letter_id)], dead_letter=True))
    driver.poll_for(0.3)
    assert seen(kafka, f"{prefix}dead-letter") == []  # as there may be more to come in its place
    driver.replaced(rejection)
    driver.drain()
    assert seen(kafka, name) == [an_event(1).id]
    assert seen(kafka, f"{prefix}dead-letter") == [letter_id]


def for_many(number: int, count: int) -> Event:
    """An event for so many subscribers."""
    ids = tuple(f"00000000-0000-4000-8000-{each:012}" for each in range(count))
    listed = msgspec.json.encode(ids).decode()
    value = f'{{"wal":{{}},"is_rls_enabled":false,"subscription_ids":{listed},"errors":[]}}'
    return an_event(number, value=value.encode(), subscription_ids=ids)


def test_the_parts_of_an_event_are_in_one_transaction(kafka: Kafka, prefix: str, opened: Opener) -> None:
    name = f"{prefix}public.book"
    event = for_many(2, 100_000)
    interrupted = opened()
    interrupted.send(an_event(1))
    interrupted.drain()
    commit(interrupted, 100)

    def send_but_the_last(driver: Driver) -> tuple[Rejection, Event]:
        driver.send(event)
        (rejection,) = driver.sink.rejected()
        *parts, last = smaller(rejection.event, rejection.share) or ()
        assert len(parts) == 3
        for each in parts:
            driver.send(each)
            driver.poll_for(0.1)
        assert driver.sink.rejected() == ()
        return rejection, last

    send_but_the_last(interrupted)
    assert seen(kafka, name) == [an_event(1).id]

    driver = opened()  # another bridge, where the first one ended
    assert driver.sink.resume(SERVER) is not None
    rejection, last = send_but_the_last(driver)
    driver.send(last)
    driver.replaced(rejection)
    driver.drain()
    whole = [*(smaller(event, rejection.share) or ())]
    assert seen(kafka, name) == sorted([an_event(1).id, *(each.id for each in whole)])
    position = driver.sink.resume(SERVER)
    assert position is not None
    assert position.last_event == event.order


def test_a_position_topic_that_would_forget_is_refused(kafka: Kafka, prefix: str, opened: Opener) -> None:
    name = f"{prefix}position-books"
    admin = kafka.admin  # kept until it has answered
    admin.create_topics([NewTopic(name, 1, 1, config={"cleanup.policy": "delete"})])[name].result()
    with pytest.raises(SinkRefused, match=r"is not compacted.*What to do"):
        opened()


def test_the_position_topic_is_made_compacted_with_one_partition(kafka: Kafka, prefix: str, opened: Opener) -> None:
    opened(resume=False)
    assert kafka.topics()[f"{prefix}position-books"] == 1


def test_looking_only_does_not_fence_off_a_running_bridge(kafka: Kafka, prefix: str, opened: Opener) -> None:
    running = opened()
    opened(resume=False)  # as `walrus-bridge check` does
    running.send(an_event())
    running.drain()
    assert seen(kafka, f"{prefix}public.book") == [an_event().id]


def test_a_broker_that_dies_in_a_transaction_loses_and_repeats_nothing(
    kafka: Kafka, prefix: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not while one is committed: a single broker may forget a commit's second phase (docs/guarantees.md).
    monkeypatch.setattr(kafka_exactly_once, "GROUP_SECONDS", 60.0)
    driver = opened()
    driver.send(*(an_event(number) for number in range(1, 200)))
    driver.poll_for(0.3)
    assert driver.in_flight == 199
    kafka.kill()
    monkeypatch.undo()
    try:
        driver.poll_for(0.3)
    except SinkAborted:
        pass
    finally:
        kafka.restart()
    try:
        driver.drain()
    except SinkAborted:
        found: Any = driver.sink.resume(SERVER)
        done = found.last_event if found else ""
        driver = Driver(driver.sink)
        driver.send(*(each for each in map(an_event, range(1, 200)) if each.order > done))
        driver.drain()
    assert seen(kafka, f"{prefix}public.book") == [an_event(number).id for number in range(1, 200)]
