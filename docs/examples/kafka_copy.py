"""A copy of the rows that one subscription may see, and how often each has changed: from Kafka into SQLite.

    python kafka_copy.py localhost:9092 realtime.public.book SUBSCRIPTION_ID copy.db

All may be killed at any moment: each change counts once. An error ends it; started again, it goes on."""

import json
import re
import sqlite3
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException

REMEMBERED = 1_000_000  # ids: more than the largest transaction and some minutes of changes have
TABLES = """
create table if not exists handled (number integer primary key, id text unique);
create table if not exists place (partition integer primary key, next_offset integer);
create table if not exists copy (key text primary key, at text, record text, changes integer);
"""


def handle(store, message, mine):
    headers = {name: value.decode() for name, value in message.headers()}
    event = json.loads(message.value(), parse_float=str)  # numeric keeps every digit
    if mine not in event["subscription_ids"]:
        return None  # for others, or the part of an event that is for others
    # A subscription is in one part of an event; which one may have changed when the event comes again.
    event_id = re.sub("/(part|retry)-[0-9a-f]{8}", "", headers["id"])
    if not store.execute("insert or ignore into handled (id) values (?)", (event_id,)).rowcount:
        return None  # a duplicate: it has been processed
    if message.key() is None:
        return print("a change that cannot be shown:", event["errors"], file=sys.stderr)
    wal, key = event["wal"], json.loads(message.key(), parse_float=str)
    at = "/".join(event_id.split("/")[1:4])  # commit LSN/LSN/seq: the order of changes
    if wal["type"] == "DELETE":  # a leave event too: the row is out of this subscription's sight
        return write(store, key, at, None)
    old_key = key | {name: value for name, value in wal.get("old_record", {}).items() if name in key}
    row = store.execute("select record from copy where key = ?", (json.dumps(old_key),)).fetchone()
    before = (row and json.loads(row[0])) or {}  # null: deleted
    if old_key != key:  # the primary key was changed: the row has moved
        write(store, old_key, at, None)
    unchanged = json.loads(headers.get("unchanged_toast", "[]"))
    return write(store, key, at, {name: before[name] for name in unchanged if name in before} | wal["record"])


def write(store, key, at, record):  # what is replayed or retried comes after newer events of the same row
    store.execute(
        "insert into copy values (?, ?, ?, 1) on conflict (key) do update set changes = changes + 1,"
        " record = case when excluded.at < at then record else excluded.record end, at = max(excluded.at, at)",
        (json.dumps(key), at, json.dumps(record)),
    )


def main(servers, topic, mine, path):
    store = sqlite3.connect(path)
    store.executescript(TABLES)
    places = dict(store.execute("select partition, next_offset from place"))

    def assigned(consumer, partitions):
        for each in partitions:
            each.offset = places.get(each.partition, OFFSET_BEGINNING)
        consumer.assign(partitions)

    settings = {"enable.auto.commit": False, "auto.offset.reset": "error", "isolation.level": "read_committed"}
    member = {"group.id": f"copy-{mine}", "group.instance.id": "1"}  # a known member has its place back at once
    consumer = Consumer({"bootstrap.servers": servers, **member, **settings})
    consumer.subscribe([topic], on_assign=assigned)
    while True:
        with store:  # one transaction: what was done, what was handled, and where to read on
            for message in consumer.consume(500, 1.0):
                if message.error():
                    raise KafkaException(message.error())
                handle(store, message, mine)
                places[message.partition()] = message.offset() + 1
            store.executemany("insert or replace into place values (?, ?)", places.items())
            store.execute("delete from handled where number < (select max(number) - ? from handled)", (REMEMBERED,))


if __name__ == "__main__":
    main(*sys.argv[1:])
