"""Which librdkafka settings are the user's, and which are not."""

import pytest

from bridge.errors import ConfigError
from bridge.sinks.kafka_settings import REFUSED, producer_settings

BROKER = {"bootstrap.servers": "127.0.0.1:9092"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_weaken_the_promise_is_refused_and_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^sink\.kafka\.client\.{name}: cannot be set: .+ What to do"):
        producer_settings({**BROKER, name: "1"})


@pytest.mark.parametrize("name", ["max.in.flight", "max.in.flight.requests.per.connection"])
def test_more_in_flight_than_keeps_the_order_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^sink\.kafka\.client\.{name}: is 6"):
        producer_settings({**BROKER, name: 6})
    assert producer_settings({**BROKER, name: "5"})[name] == "5"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no.such.thing", 1),
        ("linger.ms", "x"),
        ("compression.type", "zip"),
        ("error_cb", "x"),
        ("max.in.flight", "x"),
    ],
)
def test_unknown_and_impossible_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^sink\.kafka\.client\.{name}: "):
        producer_settings({**BROKER, name: value})


def test_a_secret_is_not_in_the_message() -> None:
    with pytest.raises(ConfigError) as raised:
        producer_settings({**BROKER, "sasl.password": "hush-hush", "sasl.mechanism": "no such"})
    assert "hush" not in str(raised.value)


def test_brokers_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"sink\.kafka\.client\.bootstrap\.servers"):
        producer_settings({"linger.ms": 5})


def test_the_promise_s_settings_stand_and_the_rest_is_passed_through() -> None:
    settings = producer_settings({**BROKER, "compression.type": "zstd", "linger.ms": 20})

    assert settings["enable.idempotence"] is True
    assert (settings["acks"], settings["message.timeout.ms"], settings["partitioner"]) == ("all", 0, "murmur2_random")
    assert (settings["compression.type"], settings["linger.ms"]) == ("zstd", 20)
