"""walrus-bridge: PostgreSQL's changes, row level security applied, to Kafka, RabbitMQ or stdout."""

from importlib.metadata import version

__version__ = version("walrus-bridge")
