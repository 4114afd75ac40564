"""Where events go: one module for each sink, one line for each here."""

from bridge.config import Config
from bridge.sinks.base import Sink


def make_sink(config: Config, *, beside: bool = False) -> Sink:
    """The sink that the config names. Raises ConfigError for settings that cannot be; connects to nothing yet.

    `beside`: another may be sending for the same slot, so there is no exactly once, which would fence that one off.
    """
    sink = config.sink
    if sink.kafka is not None and config.delivery == "exactly_once" and not beside:
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
