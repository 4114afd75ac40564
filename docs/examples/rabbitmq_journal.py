"""A journal of a table's changes, each once: from RabbitMQ into SQLite.

    python rabbitmq_journal.py amqp://guest:guest@localhost:5672/%2F realtime.public.book books journal.db

Bridge, broker and this program may be killed at any moment.
"""

import json
import sqlite3
import sys
import time

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

TABLES = """
create table if not exists journal (id text primary key, type text, wal text, subscription_ids text);
"""


def handle(store, properties, body):
    event = json.loads(body)
    store.execute(
        "insert or ignore into journal values (?, ?, ?, ?)",  # a duplicate has an id that is there
        (
            properties.headers["id"],  # message_id has no room for the longest ids
            "LEAVE" if "leave" in properties.headers else event["wal"]["type"],
            json.dumps(event["wal"]),
            json.dumps(event["subscription_ids"]),
        ),
    )


def consume(store, url, exchange, queue):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.exchange_declare(exchange, "topic", durable=True)
    # Of several of this program one reads and the others wait, so that the queue's order is kept.
    channel.queue_declare(queue, durable=True, arguments={"x-single-active-consumer": True})
    channel.queue_bind(queue, exchange, "#")
    channel.basic_qos(prefetch_count=200)
    for method, properties, body in channel.consume(queue):
        with store:
            handle(store, properties, body)
        channel.basic_ack(method.delivery_tag)  # only now: what is not acknowledged comes again


def main(url, exchange, queue, path):
    store = sqlite3.connect(path)
    store.executescript(TABLES)
    while True:
        try:
            consume(store, url, exchange, queue)
        except (AMQPError, AMQPConnectorException, OSError) as error:
            print(f"the broker is away: {error!r}", file=sys.stderr)
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
