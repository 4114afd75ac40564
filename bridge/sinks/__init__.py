"""Where events go: one module for each sink, one line for each here."""

from bridge.config import Sink as SinkConfig
from bridge.sinks.base import Sink


def make_sink(config: SinkConfig) -> Sink:
    """The sink that the config names. Raises ConfigError for settings that cannot be; connects to nothing yet."""
    if config.kafka is not None:
        from bridge.sinks.kafka import KafkaSink

        return KafkaSink(config.kafka)
    if config.rabbitmq is not None:
        from bridge.sinks.rabbitmq import RabbitMQSink

        return RabbitMQSink(config.rabbitmq)
    from bridge.sinks.stdout import StdoutSink

    return StdoutSink()
