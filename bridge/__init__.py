"""walrus-bridge: PostgreSQL's changes, row level security applied, to Kafka, RabbitMQ or stdout."""

__version__ = "0.1.0"
