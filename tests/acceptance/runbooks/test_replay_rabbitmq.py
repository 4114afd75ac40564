"""Events are parked, then one consumer of two loses its own, then it rejects one: each comes to its queue again."""

import json
from collections.abc import Iterator

import pytest
import yaml
from pika.adapters.blocking_connection import BlockingChannel

from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.rabbitmq import RabbitMQ

Message = tuple[int, bool]
"""The row's key, and whether it was replayed."""


@pytest.fixture
def channel(rabbitmq: RabbitMQ) -> Iterator[BlockingChannel]:
    with rabbitmq.connect() as connection:
        yield connection.channel()


def test_replay_rabbitmq(desk: Desk, rabbitmq: RabbitMQ, channel: BlockingChannel) -> None:
    # Given a queue that gets no inserts
    database = desk.database
    database.execute("create table book (id int primary key, title text)")
    subscription = database.subscribe("book")
    exchange, books, audit, rejected = (
        f"{desk.prefix}{name}" for name in ("public.book", "books", "audit", "rejected")
    )
    to_rabbitmq = {"url": rabbitmq.url, "route_by": "subscription"}
    settings = desk.settings({"rabbitmq": to_rabbitmq}, source={"replay_window": "1h"})
    running = desk.start(settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    channel.queue_declare(audit, durable=True)
    channel.queue_bind(audit, exchange, "public.book.delete")
    database.execute("insert into book values (1), (2)")
    database.wait_until_confirmed()
    desk.has_rabbitmq(rabbitmq)
    book = desk.book("replay-rabbitmq")
    book.bind("amqp://guest:guest@localhost:5672/%2F", rabbitmq.url)
    book.bind('"realtime."', f'"{desk.prefix}"')
    book.bind("^realtime.", f"^{desk.prefix}")
    for name in ("books", "audit", "rejected", "replay."):
        book.bind(f"realtime.{name}", f"{desk.prefix}{name}")

    # What is parked reaches the queue that is there now
    book.found_in(running.stderr)
    book.run()
    channel.queue_declare(rejected, durable=True)
    channel.queue_declare(
        books, durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": rejected}
    )
    channel.queue_bind(books, exchange, "#")
    subscribers = str(channel.queue_declare("", exclusive=True).method.queue)
    channel.queue_bind(subscribers, exchange, subscription)
    script = book.text().replace("BY_SUBSCRIPTION = False", "BY_SUBSCRIPTION = True")
    (desk.folder / "requeue.py").write_text(script, encoding="utf-8")
    book.run()
    assert taken(channel, books) == taken(channel, subscribers) == [(1, False), (2, False)]

    # One of two consumers has lost what it had
    channel.queue_bind(audit, exchange, "#")
    database.execute("insert into book values (3), (4), (5)")
    database.wait_until_confirmed()
    assert taken(channel, audit) == taken(channel, books) == [(3, False), (4, False), (5, False)]
    ((lsn,),) = database.execute("select pg_current_wal_lsn()::text")
    database.execute("insert into book values (6), (7), (8)")
    database.wait_until_confirmed()
    channel.queue_purge(books)
    copy = settings | {
        "sink": {"rabbitmq": settings["sink"]["rabbitmq"] | yaml.safe_load(book.text())["sink"]["rabbitmq"]}
    }
    (desk.folder / "replay.yaml").write_text(yaml.safe_dump(copy), encoding="utf-8")
    book.bind("0/159F790", lsn)
    book.run(until="list_queues name arguments")
    assert taken(channel, audit) == [(6, False), (7, False), (8, False)]

    # It rejects one of them
    method, _, _ = channel.basic_get(books)
    channel.basic_reject(method.delivery_tag, requeue=False)
    book.run(until="list_queues name messages")
    assert taken(channel, books) == [(7, True), (8, True), (6, True)]
    book.run()
    book.finished()
    assert running.stop() == Exit.OK


def taken(channel: BlockingChannel, queue: str) -> list[Message]:
    """What the queue holds; it is empty then."""
    found = []
    while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append((json.loads(message[2])["wal"]["record"]["id"], "replayed" in message[1].headers))
    return found
