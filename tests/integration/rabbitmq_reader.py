"""What the tests of the RabbitMQ sink share: a consumer."""

import contextlib
from collections.abc import Callable
from typing import Any

import pika

from tests.integration.sinks import Driver, an_event
from tests.servers.rabbitmq import RabbitMQ

Opener = Callable[..., Driver]
Message = tuple[pika.spec.Basic.GetOk, pika.BasicProperties, bytes]


class Reader:
    """A consumer, as others would write it."""

    def __init__(self, server: RabbitMQ, prefix: str) -> None:
        self._server = server
        self.exchange = f"{prefix}public.book"
        self.queue = f"{prefix}queue"
        self.connection = server.connect()
        self.channel = self.connection.channel()

    def bind(self, key: str = "#", **arguments: Any) -> None:
        """A durable queue, bound to public.book's exchange, which it declares as the docs say."""
        self.channel.exchange_declare(self.exchange, "topic", durable=True)
        self.channel.queue_declare(self.queue, durable=True, arguments=arguments)
        self.channel.queue_bind(self.queue, self.exchange, key)

    def read(self, queue: str | None = None) -> list[Message]:
        """All that is in the queue."""
        found = []
        while True:
            method, properties, body = self.channel.basic_get(queue or self.queue, auto_ack=True)
            if method is None:
                return found
            found.append((method, properties, body))

    def ids(self, queue: str | None = None) -> list[str]:
        return [properties.message_id for _, properties, _ in self.read(queue)]

    def close(self) -> None:
        """Also a connection that the broker has lost: pika frees it only so."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()

    def reconnect(self) -> None:
        self.close()
        self.connection = self._server.connect()
        self.channel = self.connection.channel()


def ids(count: int, start: int = 0) -> list[str]:
    return [an_event(number).id for number in range(start, count)]
