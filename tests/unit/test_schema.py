"""The schemas and the AsyncAPI document, by JSON Schema's own schema. AsyncAPI's own parser judges it in tests/acceptance/test_asyncapi.py."""

import json
from typing import Any

import jsonschema
import pytest

from bridge import asyncapi, schema
from bridge.config import Config, Kafka, RabbitMQ, Sink, Source, Stdout

CONFIGS = {
    "kafka": Config(
        sink=Sink(
            kafka=Kafka(
                prefix="shop.",
                topics={"public.book": "books", 'odd."t': "odd"},
                client={"bootstrap.servers": "a:9092, SASL_SSL://b:9093", "security.protocol": "sasl_ssl"},
            )
        ),
        delivery="exactly_once",
    ),
    "kafka without": Config(sink=Sink(kafka=Kafka())),
    "rabbitmq": Config(sink=Sink(rabbitmq=RabbitMQ(url="amqps://me:geheim@mq.example/shop%2Fone", prefix="p."))),
    "rabbitmq by subscription": Config(
        sink=Sink(rabbitmq=RabbitMQ(routing_key="{type}", route_by="subscription", unroutable="drop"))
    ),
    "stdout": Config(sink=Sink(stdout=Stdout())),
}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", CONFIGS)
def test_the_asyncapi_document_refers_to_what_it_has(name: str) -> None:
    made = asyncapi.document(CONFIGS[name])

    found = references(made)
    assert found
    for reference in found:
        place: Any = made
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    for channel in made["channels"].values():
        used = {each for each in ("schema", "table", "type") if f"{{{each}}}" in (channel["address"] or "")}
        assert set(channel.get("parameters", {})) == used
    assert "geheim" not in json.dumps(made)


def test_the_document_says_where_kafka_s_events_are() -> None:
    made = asyncapi.document(CONFIGS["kafka"])

    assert made["servers"] == {
        "kafka-1": {"host": "a:9092", "protocol": "kafka-secure"},
        "kafka-2": {"host": "b:9093", "protocol": "kafka-secure"},
    }
    addresses = {channel["address"] for channel in made["channels"].values()}
    assert addresses == {"shop.{schema}.{table}", "books", "odd", "shop.dead-letter"}
    assert "read_committed" in made["channels"]["events"]["description"]
    assert "read_committed" not in json.dumps(asyncapi.document(CONFIGS["kafka without"]))


def test_the_document_says_where_rabbitmq_s_events_are() -> None:
    made = asyncapi.document(CONFIGS["rabbitmq"])

    assert made["servers"]["rabbitmq"] == {"host": "mq.example:5671", "pathname": "/shop%2Fone", "protocol": "amqps"}
    assert made["channels"]["events"]["address"] == "{schema}.{table}.{type}"
    exchange = made["channels"]["events"]["bindings"]["amqp"]["exchange"]
    assert exchange == {"name": "p.{schema}.{table}", "type": "topic", "durable": True, "autoDelete": False}
    assert made["channels"]["unrouted"]["address"] == "p.unrouted"
    assert "unrouted" not in asyncapi.document(CONFIGS["rabbitmq by subscription"])["channels"]


@pytest.mark.parametrize("name", ["events", "dead-letter"])
def test_the_schemas_are_schemas_by_both_dialects(name: str) -> None:
    made = schema.document(name)

    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.Draft7Validator.check_schema({key: value for key, value in made.items() if key != "$schema"})


def test_the_document_names_the_slot() -> None:
    config = Config(sink=Sink(stdout=Stdout()), source=Source(slot="mine"))
    assert asyncapi.document(config)["info"]["title"] == "walrus-bridge, slot mine"
