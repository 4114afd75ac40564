"""The least that a publisher to RabbitMQ must do: persistent messages, a window of unconfirmed ones, nothing else."""

import time

import pika
from pika.channel import Channel
from pika.frame import Method

from tests.servers.rabbitmq import RabbitMQ

WINDOW = 1_000
EXCHANGE, QUEUE = "bench.bare", "bench.bare.all"
BODY = b"x" * 800
"""About the size of an event of the backlogs."""
HEADERS = {f"header-{number}": "0/15E4E50 2026-11-24" for number in range(10)}


def rate(server: RabbitMQ, count: int) -> float:
    """Events a second until all are confirmed, from a queue that is empty on."""
    with server.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(QUEUE, durable=True)
        channel.queue_bind(QUEUE, EXCHANGE, "#")
        try:
            return _Bare(server, count).run()
        finally:
            channel.queue_delete(QUEUE)


class _Bare:
    def __init__(self, server: RabbitMQ, count: int) -> None:
        self._count = count
        self._sent = 0
        self._open: dict[int, None] = {}
        """Tags that are not confirmed, in their order."""
        self._began = 0.0
        self._took = 0.0
        self._properties = pika.BasicProperties(delivery_mode=2, content_type="application/json", headers=HEADERS)
        self._connection = pika.SelectConnection(
            pika.URLParameters(server.url), on_open_callback=lambda open_: open_.channel(on_open_callback=self._opened)
        )

    def run(self) -> float:
        self._connection.ioloop.start()
        assert self._took, f"{self._sent - len(self._open)} of {self._count} confirmed"
        return self._count / self._took

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._begin())

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._publish()

    def _publish(self) -> None:
        while self._sent < self._count and len(self._open) < WINDOW:
            self._channel.basic_publish(EXCHANGE, "public.item.insert", BODY, self._properties, mandatory=True)
            self._sent += 1
            self._open[self._sent] = None

    def _on_confirm(self, frame: Method) -> None:
        ack = frame.method
        assert isinstance(ack, pika.spec.Basic.Ack), "the broker refuses a message"
        if ack.multiple:
            while self._open and (first := next(iter(self._open))) <= ack.delivery_tag:
                del self._open[first]
        else:
            del self._open[ack.delivery_tag]
        self._publish()
        if not self._open:
            self._took = time.monotonic() - self._began
            self._connection.close()
            self._connection.ioloop.stop()
