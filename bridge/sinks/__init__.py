"""Where events go: one module for each sink, one line for each here."""

import contextlib

from bridge.config import Config
from bridge.errors import ConfigError
from bridge.sinks.base import Sink
from bridge.sinks.letters import Letters


def make_sink(config: Config, *, apart: bool = False) -> Sink:
    """The sink that the config names; `apart`: beside a running bridge, whose transactions it leaves alone. Raises
    ConfigError for settings that cannot be; connects to nothing yet."""
    sink = config.sink
    if sink.kafka is not None and config.delivery == "exactly_once" and not apart:
        from bridge.sinks.kafka_exactly_once import ExactlyOnceSink

        return ExactlyOnceSink(sink.kafka, config.source.slot)
    if sink.kafka is not None:
        from bridge.sinks.kafka import KafkaSink

        return KafkaSink(sink.kafka)
    if sink.rabbitmq is not None:
        from bridge.sinks.rabbitmq import RabbitMQSink

        return RabbitMQSink(sink.rabbitmq)
    from bridge.sinks.stdout import StdoutSink

    return StdoutSink()


def make_letters(config: Config) -> Letters:
    """Where the dead letters of that sink are. Raises ConfigError; connects to nothing yet."""
    sink = config.sink
    if sink.kafka is not None:
        from bridge.sinks.kafka_letters import KafkaLetters

        return KafkaLetters(sink.kafka)
    if sink.rabbitmq is not None:
        from bridge.sinks.rabbitmq_letters import RabbitMQLetters

        return RabbitMQLetters(sink.rabbitmq)
    raise ConfigError(
        'with the stdout sink dead letters go to stderr, one line each that begins with {"dead_letter":, and nothing'
        " keeps them. What to do: look for them where the bridge's stderr went, or name the configuration of a bridge"
        " with Kafka or RabbitMQ by --config"
    )


def count_letters(config: Config) -> int | None:
    """How many dead letters there are; None: the sink keeps none (stdout).

    Raises SinkUnreachable, SinkRefused. Reads all of Kafka's topic; takes nothing from RabbitMQ's queue, and does not
    count what others have taken.
    """
    if config.sink.kafka is None and config.sink.rabbitmq is None:
        return None
    with contextlib.closing(make_letters(config)) as letters:
        return letters.count()
