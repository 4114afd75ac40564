"""The RabbitMQ sink against a real broker."""

import pathlib
import time
from urllib.parse import quote

import pytest

from bridge.cluster import free_port
from bridge.config import Queue
from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.errors import ConfigError, SinkRefused, SinkUnreachable
from bridge.sinks import rabbitmq as rabbitmq_sink
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.rabbitmq_reader import Opener, Reader, ids
from tests.integration.sinks import an_event
from tests.servers.rabbitmq import RabbitMQ

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


def test_a_table_whose_routing_key_is_too_long_keeps_no_other_from_its_own(reader: Reader, opened: Opener) -> None:
    longer = ("public", "b" * 40)
    driver = opened(tables=[("public", "book"), longer], routing_key="x" * 215 + "{schema}.{table}.{type}")
    reader.bind("#")
    driver.send(an_event(1), an_event(2, table=longer[1]), an_event(3))
    driver.poll_until(lambda: driver.in_flight == 1, "the others' confirms")
    (refused,) = driver.rejections
    assert (refused.event.id, refused.too_large) == (an_event(2).id, False)
    assert f"the routing key of public.{longer[1]} would have 269 bytes" in refused.reason
    assert reader.ids() == [an_event(1).id, an_event(3).id]


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


def test_an_event_that_comes_again_while_it_is_being_parked_is_parked_again(
    reader: Reader, prefix: str, opened: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = opened()
    capsys.readouterr()
    events = [an_event(number, table=f"book{number}") for number in range(20)]
    said: list[str] = []

    def is_being_parked(table: str) -> bool:
        said.append(capsys.readouterr().out)
        return f"exchange={prefix}public.{table} parked_in" in "".join(said)

    for event in events:
        driver.send(event)
        driver.poll_until(lambda table=event.table: is_being_parked(table), "it is being parked")
        # The first copy is on its way to the queue, and not confirmed yet, when the second leaves.
        driver.send(event)
    driver.drain()

    assert reader.ids(f"{prefix}unrouted") == [event.id for event in events for _ in range(2)]
    assert "what='queue" not in "".join(said)  # none of ours was taken for gone


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
