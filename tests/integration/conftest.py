"""Fixtures of the RabbitMQ sink's tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from bridge.config import RabbitMQ as RabbitMQConfig
from bridge.sinks.rabbitmq import RabbitMQSink
from tests.integration.rabbitmq_reader import Opener, Reader
from tests.integration.sinks import TABLE, Driver
from tests.servers.rabbitmq import RabbitMQ


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
