"""The RabbitMQ sink against a real broker."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pika
import pytest

from bridge.cluster import free_port
from bridge.config import Queue
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import ConfigError, SinkRefused, SinkUnreachable
from bridge.sinks import rabbitmq as rabbitmq_sink
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.sinks import TABLE, Driver, an_event
from tests.servers.rabbitmq import RabbitMQ

Opener = Callable[..., Driver]
Message = tuple[pika.spec.Basic.GetOk, pika.BasicProperties, bytes]


class Reader:
    """A consumer, as others would write it."""

    def __init__(self, server: RabbitMQ, prefix: str) -> None:
        self._server = server
        self.exchange = f"{prefix}public.book"
        self.queue = f"{prefix}queue"
        self.connection = server.connect()
        self.channel = self.connection.channel()

    def bind(self, key: str = "#", **arguments: Any) -> None:
        """A durable queue, bound to public.book's exchange, which it declares as the docs say."""
        self.channel.exchange_declare(self.exchange, "topic", durable=True)
        self.channel.queue_declare(self.queue, durable=True, arguments=arguments)
        self.channel.queue_bind(self.queue, self.exchange, key)

    def read(self, queue: str | None = None) -> list[Message]:
        """All that is in the queue."""
        found = []
        while True:
            method, properties, body = self.channel.basic_get(queue or self.queue, auto_ack=True)
            if method is None:
                return found
            found.append((method, properties, body))

    def ids(self, queue: str | None = None) -> list[str]:
        return [properties.message_id for _, properties, _ in self.read(queue)]

    def close(self) -> None:
        """Also a connection that the broker has lost: pika frees it only so."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()

    def reconnect(self) -> None:
        self.close()
        self.connection = self._server.connect()
        self.channel = self.connection.channel()


@pytest.fixture
def reader(rabbitmq: RabbitMQ, prefix: str) -> Iterator[Reader]:
    made = Reader(rabbitmq, prefix)
    yield made
    made.close()


@pytest.fixture
def opened(rabbitmq: RabbitMQ, prefix: str) -> Iterator[Opener]:
    """An open sink: `opened(**config)`; with `tables` for those that are subscribed to."""
    drivers: list[Driver] = []

    def open_sink(tables: list[tuple[str, str]] | None = None, **config: Any) -> Driver:
        drivers.append(Driver(RabbitMQSink(RabbitMQConfig(**{"url": rabbitmq.url, "prefix": prefix, **config}))))
        drivers[-1].sink.open([TABLE] if tables is None else tables)
        return drivers[-1]

    yield open_sink
    for driver in drivers:
        driver.sink.close()


def ids(count: int, start: int = 0) -> list[str]:
    return [an_event(number).id for number in range(start, count)]


# -- what arrives -------------------------------------------------------------------------------------------------


def test_an_event_arrives_with_its_key_properties_and_headers(reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind("public.book.insert")
    event = an_event(headers=[("id", "7409-1/x"), ("role", "größe"), ("content-type", "application/json")])

    driver.send(event)
    driver.drain()

    ((method, properties, body),) = reader.read()
    assert (method.exchange, method.routing_key, body) == (reader.exchange, "public.book.insert", event.value)
    assert properties.headers == {"id": "7409-1/x", "role": "größe", "content-type": "application/json"}
    assert (properties.message_id, properties.timestamp, properties.type) == (event.id, event.commit_seconds, "INSERT")
    assert (properties.app_id, properties.delivery_mode) == ("walrus-bridge", 2)
    assert properties.content_type == "application/json"


def test_an_exchange_is_made_at_a_table_s_first_event(reader: Reader, opened: Opener) -> None:
    driver = opened(tables=[])

    assert not driver.sink.send(an_event(), driver.checkpoint.current)
    assert driver.in_flight == 0
    driver.poll_until(lambda: driver.sink.send(an_event(), driver.checkpoint.current), "taken")
    driver.drain()

    reader.channel.exchange_declare(reader.exchange, "topic", durable=True)  # as it is, or this fails


def test_names_are_escaped(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened(tables=[("Über", "a.b")])
    reader.channel.queue_declare(reader.queue)
    reader.channel.queue_bind(reader.queue, f"{prefix}-C3-9Cber.a-2Eb", "#")

    driver.send(an_event(schema="Über", table="a.b", kind="DELETE"))
    driver.drain()

    assert reader.read()[0][0].routing_key == "-C3-9Cber.a-2Eb.delete"


def test_an_id_longer_than_the_property_takes_is_in_its_header(reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    long_id = "7409-1/" + "x" * 300

    driver.send(an_event(id=long_id, headers=[("id", long_id)]))
    driver.drain()

    properties = reader.read()[0][1]
    assert (properties.message_id, properties.headers) == (None, {"id": long_id})


def test_each_subscription_may_have_a_routing_key(reader: Reader, opened: Opener) -> None:
    driver = opened(route_by="subscription")
    mine, other = "af68a1b5-fbb3-4154-84cc-a2ee1a7048f9", "00000000-0000-4000-8000-000000000000"
    reader.bind(mine)

    driver.send(an_event(1, subscription_ids=(other, mine)), an_event(2, subscription_ids=(other,)))
    driver.drain()

    assert reader.ids() == [an_event(1).id]


def test_events_keep_their_order(reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()

    driver.send(*(an_event(number) for number in range(5000)))
    driver.drain()

    assert reader.ids() == ids(5000)


def test_dead_letters_have_a_queue_of_their_own(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened()

    driver.send(an_event(dead_letter=True))
    driver.drain()

    assert reader.ids(f"{prefix}dead-letter") == [an_event().id]


def test_queues_and_bindings_are_made_where_the_config_lists_them(reader: Reader, prefix: str, opened: Opener) -> None:
    mine = Queue(name=f"{prefix}mine", bindings={f"{prefix}public.book": "public.book.*"})
    driver = opened(tables=[], queues=(mine,))

    driver.send(an_event())
    driver.drain()

    assert reader.ids(f"{prefix}mine") == [an_event().id]


# -- what nobody is bound to --------------------------------------------------------------------------------------


def test_what_nobody_is_bound_to_is_parked_before_it_counts(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened()

    driver.send(*(an_event(number) for number in range(3000)))
    driver.drain()

    assert reader.ids(f"{prefix}unrouted") == ids(3000)
    driver.send(an_event(7))
    driver.drain()
    ((_, properties, body),) = reader.read(f"{prefix}unrouted")
    assert (body, properties.headers["id"]) == (an_event(7).value, an_event(7).id)


def test_each_returned_message_is_told_from_the_routable_ones_around_it(
    reader: Reader, prefix: str, opened: Opener
) -> None:
    driver = opened()
    reader.bind("public.book.insert")
    events = [an_event(number, kind="INSERT" if number % 3 else "UPDATE") for number in range(5000)]
    events += events[-300:]  # as after a lost stream: an id may be on its way twice

    driver.send(*events)
    driver.drain()

    assert reader.ids() == [event.id for event in events if event.kind == "INSERT"]
    assert reader.ids(f"{prefix}unrouted") == [event.id for event in events if event.kind == "UPDATE"]


def test_it_may_stop_the_bridge(opened: Opener, reader: Reader) -> None:
    driver = opened(unroutable="stop")

    driver.send(an_event())
    with pytest.raises(
        SinkRefused, match=f"none is bound to exchange {reader.exchange} for routing key public.book.insert"
    ):
        driver.drain()

    assert driver.in_flight == 1


def test_it_may_be_dropped(opened: Opener, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    driver = opened(unroutable="drop")

    driver.send(an_event(1))
    driver.drain()
    reader.bind()
    driver.send(an_event(2))
    driver.drain()

    assert reader.ids() == [an_event(2).id]
    assert "dropped" in capsys.readouterr().out


def test_a_queue_of_ours_that_was_deleted_is_made_again(reader: Reader, prefix: str, opened: Opener) -> None:
    driver = opened()
    reader.channel.queue_delete(f"{prefix}dead-letter")
    reader.channel.queue_delete(f"{prefix}unrouted")

    driver.send(an_event(1, dead_letter=True), an_event(2))
    driver.drain()

    assert reader.ids(f"{prefix}dead-letter") == [an_event(1).id]
    assert reader.ids(f"{prefix}unrouted") == [an_event(2).id]


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
        driver.poll_for(0.5)
        assert not driver.sink.send(an_event(1000), driver.checkpoint.current)
    finally:
        rabbitmq.restart()

    driver.send(*(an_event(number) for number in range(1000, 1500)), seconds=40)
    driver.drain(40)

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


def test_a_connection_limit_is_waited_for(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened()
    reader.bind()
    rabbitmq.control("set_vhost_limits", "-p", "/", '{"max-connections": 0}')
    try:
        rabbitmq.control("close_all_connections", "test")
        driver.poll_for(0.5)
        assert not driver.sink.send(an_event(1), driver.checkpoint.current)
    finally:
        rabbitmq.control("clear_vhost_limits", "-p", "/")

    driver.send(an_event(1))
    driver.drain()

    reader.reconnect()
    assert reader.ids() == [an_event(1).id]


def test_heartbeats_go_on_while_nothing_is_sent(rabbitmq: RabbitMQ, reader: Reader, opened: Opener) -> None:
    driver = opened(url=f"{rabbitmq.url}?heartbeat=1")
    reader.bind()
    ours = [
        line for line in rabbitmq.control("list_connections", "pid", "timeout").splitlines() if line.endswith("\t1")
    ]

    for _ in range(9):
        time.sleep(0.5)  # as the pipeline does: rarely, while PostgreSQL is silent
        driver.poll()

    assert len(ours) == 1
    assert ours[0] in rabbitmq.control("list_connections", "pid", "timeout")


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
    driver.poll_for(0.5)  # a quorum queue notices its limit a little later
    driver.send(*(an_event(number) for number in range(5, 10)))
    driver.poll_for(0.5)
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
    monkeypatch.setattr(rabbitmq_sink, "REFUSED_SECONDS", 2.0)
    driver = opened()
    reader.bind(**FULL_AT_TWO)
    driver.send(*(an_event(number) for number in range(4)))
    driver.poll_for(0.5)
    assert driver.in_flight == 2

    rabbitmq.pause()
    try:
        time.sleep(0.1)
        driver.poll_for(2.5)
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
    driver.poll_for(0.3)

    assert not driver.sink.send(an_event(52), driver.checkpoint.current)
    assert driver.in_flight == 50


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


# -- what cannot be delivered -------------------------------------------------------------------------------------


def test_headers_larger_than_a_frame_are_rejected(reader: Reader, opened: Opener) -> None:
    driver = opened(route_by="subscription")
    reader.bind()
    many = tuple(f"00000000-0000-4000-8000-{number:012}" for number in range(4000))

    driver.send(an_event(1), an_event(2, subscription_ids=many), an_event(3, subscription_ids=many[:2000]))
    driver.drain()

    assert [rejection.event.id for rejection in driver.rejections] == [an_event(2).id]
    assert "frame_max of 131072" in driver.rejections[0].reason
    assert driver.in_flight == 1, "it is the loop that acknowledges what it has buried"
    assert reader.ids() == [an_event(1).id, an_event(3).id]


def test_a_message_larger_than_the_broker_takes_is_rejected_alone(
    rabbitmq: RabbitMQ, reader: Reader, opened: Opener
) -> None:
    rabbitmq.control("eval", "application:set_env(rabbit, max_message_size, 50000).")
    try:
        driver = opened()
        reader.bind()
        driver.send(an_event(1), an_event(2, value=b"x" * 60_000), an_event(3), an_event(4, value=b"x" * 40_000))
        driver.drain()
    finally:
        rabbitmq.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")

    assert [rejection.event.id for rejection in driver.rejections] == [an_event(2).id]
    assert "60000 bytes" in driver.rejections[0].reason
    assert sorted(set(reader.ids())) == [an_event(number).id for number in (1, 3, 4)]


# -- at start -----------------------------------------------------------------------------------------------------


def test_an_exchange_of_another_type_is_refused(reader: Reader, opened: Opener) -> None:
    reader.channel.exchange_declare(reader.exchange, "fanout", durable=True)

    with pytest.raises(SinkRefused, match=f"exchange {reader.exchange} is there already, but not as a durable topic"):
        opened()


def test_and_at_a_table_s_first_event(reader: Reader, opened: Opener) -> None:
    driver = opened(tables=[])
    reader.channel.exchange_declare(reader.exchange, "fanout", durable=True)

    with pytest.raises(SinkRefused, match="not as a durable topic exchange"):
        driver.send(an_event())


def test_a_consumer_may_have_declared_all_of_it_first(reader: Reader, prefix: str, opened: Opener) -> None:
    reader.bind()
    reader.channel.queue_declare(f"{prefix}dead-letter", durable=True, arguments={"x-queue-type": "quorum"})

    driver = opened()
    driver.send(an_event(1), an_event(2, dead_letter=True))
    driver.drain()

    assert (reader.ids(), reader.ids(f"{prefix}dead-letter")) == ([an_event(1).id], [an_event(2).id])


@pytest.mark.parametrize("rights", [("", ".*", ""), ("", "", "")])
def test_a_login_that_may_not_declare_says_what_it_needs(
    rabbitmq: RabbitMQ, prefix: str, opened: Opener, rights: tuple[str, str, str]
) -> None:
    user = prefix.strip(".")
    rabbitmq.control("add_user", user, "hush-hush")
    rabbitmq.control("set_permissions", user, *rights)

    with pytest.raises(SinkRefused, match=f"queue {prefix}dead-letter is missing, .* grant it the configure") as raised:
        opened(url=f"amqp://{user}:hush-hush@127.0.0.1:{rabbitmq.port}/%2F")

    assert "hush" not in str(raised.value)


def test_a_login_that_may_only_write_uses_what_is_there(
    rabbitmq: RabbitMQ, reader: Reader, prefix: str, opened: Opener
) -> None:
    user = prefix.strip(".")
    rabbitmq.control("add_user", user, "hush-hush")
    rabbitmq.control("set_permissions", user, "", ".*", "")
    reader.bind()
    for queue in ("dead-letter", "unrouted"):
        reader.channel.queue_declare(f"{prefix}{queue}", durable=True)

    driver = opened(url=f"amqp://{user}:hush-hush@127.0.0.1:{rabbitmq.port}/%2F")
    driver.send(an_event())
    driver.drain()

    assert reader.ids() == [an_event().id]


def test_a_login_that_may_not_write_says_so(rabbitmq: RabbitMQ, prefix: str, opened: Opener) -> None:
    user = prefix.strip(".")
    rabbitmq.control("add_user", user, "hush-hush")
    rabbitmq.control("set_permissions", user, ".*", "", "")
    driver = opened(url=f"amqp://{user}:hush-hush@127.0.0.1:{rabbitmq.port}/%2F")

    driver.send(an_event())
    with pytest.raises(SinkRefused, match="grant it the write permission"):
        driver.drain()

    assert driver.in_flight == 1


@pytest.mark.parametrize(("login", "vhost"), [("guest:hush-hush", "%2F"), ("guest:guest", "nope")])
def test_a_wrong_password_or_vhost_is_refused(rabbitmq: RabbitMQ, opened: Opener, login: str, vhost: str) -> None:
    with pytest.raises(
        SinkRefused, match=f"RabbitMQ at 127.0.0.1:{rabbitmq.port}, vhost .* refuses the login"
    ) as raised:
        opened(url=f"amqp://{login}@127.0.0.1:{rabbitmq.port}/{vhost}")

    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_no_broker_is_unreachable_within_seconds(opened: Opener, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(rabbitmq_sink, "OPEN_SECONDS", 1.0)
    began = time.monotonic()

    with pytest.raises(SinkUnreachable, match=f"RabbitMQ at {host}:") as raised:
        opened(url=f"amqp://guest:hush-hush@{host}:{free_port()}/%2F")

    assert time.monotonic() - began < 3
    assert "hush" not in str(raised.value)


def test_a_url_that_is_none_is_named_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"^sink\.rabbitmq\.url: ") as raised:
        RabbitMQSink(RabbitMQConfig(url="amqp://guest:hush-hush@localhost:port/x"))

    assert "hush" not in str(raised.value)


def test_certificates_that_cannot_be_loaded_are_named(tmp_path: pathlib.Path) -> None:
    options = quote(repr({"ca_certs": str(tmp_path / "none.pem")}))

    with pytest.raises(ConfigError, match=r"^sink\.rabbitmq\.url: the certificates .* No such file") as raised:
        RabbitMQSink(RabbitMQConfig(url=f"amqps://guest:hush-hush@localhost/%2F?ssl_options={options}"))

    assert "hush" not in str(raised.value)


def test_polling_before_it_is_open_is_harmless() -> None:
    sink = RabbitMQSink(RabbitMQConfig())

    assert list(sink.poll(0)) == []
    assert sink.fileno() is None
    sink.close()
