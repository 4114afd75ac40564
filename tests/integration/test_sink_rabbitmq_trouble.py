"""The RabbitMQ sink against a real broker that refuses, blocks, closes or dies."""

import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import SinkRefused, SinkUnreachable
from bridge.sinks import rabbitmq as rabbitmq_sink
from tests.integration.rabbitmq_reader import Opener, Reader, ids
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until


def link(driver: Driver) -> Any:
    """The sink's connection."""
    sink: Any = driver.sink
    return sink._link


# -- acknowledgement ----------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_while_the_broker_is_frozen(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    rabbitmq.pause()
    try:
        driver.send(*(an_event(number) for number in range(100)))
        driver.poll_for(1)
        assert driver.in_flight == 100
    finally:
        rabbitmq.resume()

    driver.drain()

    assert reader.ids() == ids(100)


def test_what_waits_for_a_frozen_broker_is_bounded_and_polling_does_not_block(
    rabbitmq: RabbitMQ, reader: Reader, opened: Opener
) -> None:
    driver = opened()
    reader.bind()
    rabbitmq.pause()
    try:
        began = time.monotonic()
        taken = driver.send_while_it_takes(an_event(number, value=b"x" * 100_000) for number in range(1000))
        assert 10 < taken < 100, "8 MiB"
        assert time.monotonic() - began < 2
    finally:
        rabbitmq.resume()

    driver.drain()

    assert reader.ids() == ids(taken)


def test_nothing_is_lost_when_the_broker_dies(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    driver.send(*(an_event(number) for number in range(500)))
    driver.drain()
    driver.send(*(an_event(number) for number in range(500, 1000)))
    rabbitmq.kill()
    try:
        driver.poll_until(lambda: link(driver).channel is None, "the loss")
        assert not driver.sink.send(an_event(1000), driver.checkpoint.current)
    finally:
        rabbitmq.restart()

    driver.send(*(an_event(number) for number in range(1000, 1500)))
    driver.drain()

    reader.reconnect()
    arrived = reader.ids()
    assert list(dict.fromkeys(arrived)) == ids(1500), "in order, but for repetitions"
    assert len(arrived) <= 2000


def test_a_connection_closed_by_the_broker_is_made_again(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    driver.send(an_event(0))
    driver.drain()

    rabbitmq.control("close_all_connections", "test")
    driver.send(*(an_event(number) for number in range(1, 100)))
    driver.drain()

    reader.reconnect()
    assert list(dict.fromkeys(reader.ids())) == ids(100)


def test_a_handshake_that_ends_while_the_sink_closes_begins_nothing(
    rabbitmq: RabbitMQ, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_sink, "OPEN_SECONDS", 0.5)
    driver = Driver(rabbitmq_sink.RabbitMQSink(RabbitMQConfig(url=rabbitmq.url, prefix=prefix)))
    rabbitmq.pause()
    try:
        with pytest.raises(SinkUnreachable):
            driver.sink.open([TABLE])
    finally:
        rabbitmq.resume()

    # As `close` does, which waits a moment
    connection, link(driver)._connection = link(driver)._connection, None
    with capture_logs() as said:
        wait_until(lambda: link(driver).loop.step(0.01) or connection.is_closed, "the good-bye")
    driver.sink.close()

    assert said == []
    assert not link(driver).is_connected


def test_a_connection_limit_is_waited_for(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    rabbitmq.control("set_vhost_limits", "-p", "/", '{"max-connections": 0}')
    try:
        rabbitmq.control("close_all_connections", "test")
        driver.poll_until(lambda: link(driver).channel is None, "the loss")
        assert not driver.sink.send(an_event(1), driver.checkpoint.current)
    finally:
        rabbitmq.control("clear_vhost_limits", "-p", "/")

    driver.send(an_event(1))
    driver.drain()

    reader.reconnect()
    assert reader.ids() == [an_event(1).id]


def test_heartbeats_go_on_while_nothing_is_sent(rabbitmq: RabbitMQ, opened: Opener) -> None:
    driver = opened(url=f"{rabbitmq.url}?heartbeat=3")

    with capture_logs() as said:
        for _ in range(24):  # the broker lets a client be silent for two heartbeats, and some
            time.sleep(0.5)  # as the pipeline does: rarely, while PostgreSQL is silent
            driver.poll()

    assert said == []


def test_a_client_that_sends_no_heartbeats_is_let_go(rabbitmq: RabbitMQ, opened: Opener) -> None:
    """What the test above would see."""
    driver = opened(url=f"{rabbitmq.url}?heartbeat=3")

    with capture_logs() as said:
        time.sleep(12)
        driver.poll_until(lambda: said, "the loss")

    assert said[0]["event"] == "rabbitmq lost, reconnecting"


def test_an_exchange_deleted_in_mid_stream_is_made_again(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened()
    driver.send(an_event(0))
    driver.drain()

    reader.channel.exchange_delete(reader.exchange)
    driver.send(*(an_event(number) for number in range(1, 100)))
    driver.drain()

    assert list(dict.fromkeys(reader.ids(f"{prefix}unrouted"))) == ids(100)


FULL_AT_TWO = {"x-max-length": 2, "x-overflow": "reject-publish"}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_a_full_queue_refuses_goes_again(reader: Reader, opened: Opener, kind: str) -> None:
    driver = opened()
    reader.bind(**FULL_AT_TWO, **{"x-queue-type": kind})

    driver.send(*(an_event(number) for number in range(5)))
    sink: Any = driver.sink
    driver.poll_until(lambda: sink._window.is_empty, "each taken or refused")  # a quorum queue may take more than two
    driver.send(*(an_event(number) for number in range(5, 10)))
    driver.poll_until(lambda: sink._window.is_empty, "each taken or refused")
    assert driver.in_flight >= 5
    assert driver.rejections == []

    arrived: list[str] = []
    driver.poll_until(lambda: arrived.extend(reader.ids()) or driver.in_flight == 0, "all acknowledged")
    arrived += reader.ids()
    assert sorted(set(arrived)) == ids(10)


def test_others_go_on_while_a_queue_is_full(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened()
    reader.bind("public.book.insert", **FULL_AT_TWO)
    reader.channel.queue_declare(f"{prefix}other", durable=True)
    reader.channel.queue_bind(f"{prefix}other", reader.exchange, "public.book.update")
    driver.send(*(an_event(number) for number in range(5)))
    driver.poll_for(0.2)

    driver.send(*(an_event(number, kind="UPDATE") for number in range(5, 5000)))

    driver.poll_until(lambda: driver.in_flight == 3, "the others' acknowledgement")
    assert reader.ids(f"{prefix}other") == ids(5000, 5)


def test_what_is_refused_for_too_long_is_given_up_but_for_dead_letters(
    reader: Reader, prefix: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_sink, "REFUSED_SECONDS", 1.0)
    reader.bind(**FULL_AT_TWO)
    reader.channel.queue_declare(f"{prefix}dead-letter", durable=True, arguments=FULL_AT_TWO)
    driver = opened()
    letters = [an_event(number, dead_letter=True) for number in range(10, 13)]

    driver.send(*(an_event(number) for number in range(4)), *letters)
    driver.poll_until(lambda: driver.rejections, "given up")
    driver.poll_for(1.5)

    assert sorted(each.event.id for each in driver.rejections) == ids(4, 2)
    reason = f"refused it for 1 s for exchange {reader.exchange} with routing key public.book.insert"
    assert all(reason in each.reason and not each.too_large for each in driver.rejections)
    assert driver.in_flight == 3, "the two, and the dead letter that waits for room"
    found = reader.ids(f"{prefix}dead-letter")
    driver.poll_until(lambda: driver.in_flight == 2, "the dead letter's acknowledgement")
    found += reader.ids(f"{prefix}dead-letter")
    assert sorted(found) == [letter.id for letter in letters]


def test_what_was_refused_keeps_its_time_while_the_broker_is_away(
    rabbitmq: RabbitMQ, reader: Reader, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_sink, "REFUSED_SECONDS", 5.0)
    driver = opened()
    reader.bind(**FULL_AT_TWO)
    driver.send(*(an_event(number) for number in range(4)))
    sink: Any = driver.sink
    driver.poll_until(lambda: driver.in_flight == 2 and len(sink._refusals) == 2, "two taken, two refused")

    rabbitmq.pause()
    try:
        time.sleep(0.1)
        driver.poll_for(6)
        assert driver.rejections == [], "nobody refused it"
    finally:
        rabbitmq.resume()
    reader.read()

    driver.drain()
    assert driver.rejections == []


def test_too_many_refused_messages_hold_up_the_rest(
    reader: Reader, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_sink, "REFUSED_MESSAGES", 50)
    driver = opened()
    reader.bind(**FULL_AT_TWO)

    driver.send(*(an_event(number) for number in range(52)))
    sink: Any = driver.sink
    driver.poll_until(lambda: sink._refusals.is_full and driver.in_flight == 50, "two taken, fifty refused")

    assert not driver.sink.send(an_event(52), driver.checkpoint.current)


def test_a_blocked_connection_takes_nothing(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        taken = 0
        while driver.sink.send(an_event(taken), driver.checkpoint.current):
            taken += 1
            driver.poll(0.02)
            assert taken < 500
        driver.poll_for(0.2)
        assert driver.in_flight > 0
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.4")

    driver.send(an_event(taken))
    driver.drain()

    assert reader.ids() == ids(taken + 1)


def test_closing_waits_for_nothing_and_acknowledges_nothing(rabbitmq: RabbitMQ, opened: Opener) -> None:
    driver = opened()
    rabbitmq.pause()
    try:
        driver.send(*(an_event(number) for number in range(100)))
        driver.poll_for(0.1)
        began = time.monotonic()
        driver.sink.close()
        took = time.monotonic() - began
    finally:
        rabbitmq.resume()

    assert took < 1
    assert driver.in_flight == 100


# -- closed by the broker -----------------------------------------------------------------------------------------


def test_a_channel_that_crashed_in_the_broker_is_made_again(
    rabbitmq: RabbitMQ, reader: Reader, opened: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = opened()
    reader.bind()
    driver.send(an_event(0))
    driver.drain()

    driver.send(*(an_event(number) for number in range(1, 500)))
    rabbitmq.control("eval", "[exit(Channel, crash) || Channel <- rabbit_channel:list_local()].")
    driver.send(*(an_event(number) for number in range(500, 1000)))
    driver.drain()

    assert "INTERNAL_ERROR" in capsys.readouterr().out
    reader.reconnect()
    assert list(dict.fromkeys(reader.ids())) == ids(1000)


def test_an_exchange_that_became_another_type_is_an_error_at_the_next_connection(
    rabbitmq: RabbitMQ, reader: Reader, opened: Opener
) -> None:
    driver = opened()
    reader.channel.exchange_delete(reader.exchange)
    reader.channel.exchange_declare(reader.exchange, "headers", durable=True)

    rabbitmq.control("close_all_connections", "test")
    with pytest.raises(SinkRefused, match=f"exchange {reader.exchange} is there already, but not as a durable topic"):
        driver.poll_until(lambda: False, "the refusal")
