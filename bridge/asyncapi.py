"""An AsyncAPI 3 document of what a configuration's bridge sends, and where. Pure: neither database nor broker is asked.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from typing import Any, Final
from urllib.parse import quote

from bridge import __version__, schema
from bridge.config import Config, Kafka, RabbitMQ
from bridge.naming import Destinations, escape
from bridge.sinks.rabbitmq_link import parameters

Part = dict[str, Any]

_ESCAPED: Final = "Bytes outside [A-Za-z0-9_] are written -XX, in hexadecimal."
_TYPES: Final = ["insert", "update", "delete"]
_KAFKA_BINDING: Final = "0.5.0"
_AMQP_BINDING: Final = "0.3.0"


def document(config: Config) -> Part:
    """Raises ConfigError for names or a URL that cannot be."""
    kafka, rabbitmq = config.sink.kafka, config.sink.rabbitmq
    if kafka is not None:
        servers, channels = _kafka_servers(kafka), _topics(kafka, exactly_once=config.delivery == "exactly_once")
    elif rabbitmq is not None:
        servers, channels = _rabbitmq_servers(rabbitmq), _exchanges(rabbitmq)
    else:
        servers, channels = {}, _streams()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"walrus-bridge, slot {config.source.slot}",
            "version": __version__,
            "description": "PostgreSQL's changes, for the subscribers who may see them.",
        },
        "defaultContentType": "application/json",
        **({"servers": servers} if servers else {}),
        "channels": channels,
        "operations": {f"send-{name}": _sends(name, channel) for name, channel in channels.items()},
        "components": {
            "messages": {
                "event": _message("Event", "event", schema.event_headers(), config),
                "deadLetter": _message("Dead letter", "deadLetter", schema.dead_letter_headers(), config),
            },
            "schemas": {"event": schema.event(), "deadLetter": schema.dead_letter()},
        },
    }


def _sends(name: str, channel: Part) -> Part:
    ref = {"$ref": f"#/channels/{name}"}
    return {
        "action": "send",
        "channel": ref,
        "messages": [{"$ref": f"{ref['$ref']}/messages/{message}"} for message in channel["messages"]],
    }


def _message(title: str, name: str, headers: schema.Schema, config: Config) -> Part:
    made: Part = {
        "name": name,
        "title": title,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if config.sink.kafka is not None:
        key = "its id" if name == "deadLetter" else "the primary key as compact JSON; absent with errors 400 and 401"
        made["headers"] = headers
        made["bindings"] = {
            "kafka": {"key": {"type": "string", "description": f"UTF-8: {key}."}, "bindingVersion": _KAFKA_BINDING}
        }
    elif config.sink.rabbitmq is not None:
        made["headers"] = headers
        made["bindings"] = {"amqp": {"contentEncoding": "utf-8", "bindingVersion": _AMQP_BINDING}}
        made["description"] = (
            "message_id is the header id, as far as AMQP has room for it; type is INSERT, UPDATE or DELETE."
        )
    return made


def _channel(address: str | None, message: str, description: str, **more: Any) -> Part:
    messages = {message: {"$ref": f"#/components/messages/{message}"}}
    return {"address": address, "description": description, "messages": messages, **more}


def _parameters(address: str) -> Part:
    """Those that the address has."""
    known: Part = {
        "schema": {"description": f"The table's schema. {_ESCAPED}"},
        "table": {"description": f"The table's name. {_ESCAPED}"},
        "type": {"description": "What happened to the row.", "enum": _TYPES},
    }
    used = {name: each for name, each in known.items() if f"{{{name}}}" in address}
    return {"parameters": used} if used else {}


def _kafka_servers(kafka: Kafka) -> Part:
    brokers = str(kafka.client.get("bootstrap.servers", kafka.client.get("metadata.broker.list", "")))
    secure = "SSL" in str(kafka.client.get("security.protocol", "")).upper()
    hosts = [each.strip().rpartition("://")[2] for each in brokers.split(",") if each.strip()]
    return {
        f"kafka-{number}": {"host": host, "protocol": "kafka-secure" if secure else "kafka"}
        for number, host in enumerate(hosts, 1)
    }


def _topics(kafka: Kafka, *, exactly_once: bool) -> Part:
    names = Destinations("sink.kafka.topic", kafka.topic, kafka.prefix, kafka.topics, kafka=True)
    how = " Read with isolation.level=read_committed to get each once." if exactly_once else ""
    address = kafka.topic.format(prefix=kafka.prefix, schema="{schema}", table="{table}")
    told = f"The events of a table, in one partition for each row.{how}"
    made = {"events": _channel(address, "event", told, **_parameters(address))}
    for label in kafka.topics:
        topic = kafka.topics[label]
        made[f"events-of-{escape(label)}"] = _channel(topic, "event", f"The events of {label}.{how}")
    made["dead-letters"] = _channel(names.dead_letters, "deadLetter", "What can never succeed.")
    return made


def _rabbitmq_servers(rabbitmq: RabbitMQ) -> Part:
    """Without the login."""
    found = parameters(rabbitmq.url)
    return {
        "rabbitmq": {
            "host": f"{found.host}:{found.port}",
            "pathname": f"/{quote(found.virtual_host, safe='')}",
            "protocol": "amqp" if found.ssl_options is None else "amqps",
        }
    }


def _exchanges(rabbitmq: RabbitMQ) -> Part:
    names = Destinations("sink.rabbitmq.exchange", rabbitmq.exchange, rabbitmq.prefix, {}, kafka=False)
    exchange = rabbitmq.exchange.format(prefix=rabbitmq.prefix, schema="{schema}", table="{table}")
    routes = " Each subscription id is a routing key besides." if rabbitmq.route_by == "subscription" else ""
    told = f"The events of a table: the exchange {exchange}, and this routing key, the type in lower case.{routes}"
    binding = {
        "is": "routingKey",
        "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
        "bindingVersion": _AMQP_BINDING,
    }
    made = {
        "events": _channel(
            rabbitmq.routing_key, "event", told, **_parameters(rabbitmq.routing_key), bindings={"amqp": binding}
        ),
        "dead-letters": _queue(names.dead_letters, "deadLetter", "What can never succeed."),
    }
    if rabbitmq.unroutable == "park":
        made["unrouted"] = _queue(f"{rabbitmq.prefix}unrouted", "event", "Events that no queue was bound for.")
    return made


def _queue(name: str, message: str, description: str) -> Part:
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
    binding = {"is": "queue", "queue": queue, "bindingVersion": _AMQP_BINDING}
    return _channel(name, message, description, bindings={"amqp": binding})


def _streams() -> Part:
    return {
        "events": _channel(None, "event", "Standard output: an event a line, without headers."),
        "dead-letters": _channel(None, "deadLetter", "Standard error, among the log lines: a dead letter a line."),
    }
