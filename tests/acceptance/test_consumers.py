"""The consumers' guide's examples: bridge, broker and they themselves are killed, and what they keep is right."""

import json
import pathlib
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaException

from bridge.errors import Exit
from tests.acceptance.test_parts import config, ends, from_kafka, kafka_sink, rabbitmq_sink
from tests.servers.example import EXAMPLES, Program, ask
from tests.servers.kafka import JARS, Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until

OTHERS = 1000
"""Further subscriptions: with 20,000 bytes a message, their events go in parts."""
ROUNDS = 3
SLOWLY = {"limits": {"events_per_second": 20}}
"""So a bridge that is killed has always something to send again."""


@pytest.fixture
def example(tmp_path: pathlib.Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*command: str) -> Program:
        started.append(Program(tmp_path / "example.log", *command))
        started[-1].keep()
        return started[-1]

    yield start
    for each in started:
        each.kill()


def leads(kafka: Kafka, topic: str) -> bool:
    """A broker that has just been restarted answers before it knows its partitions."""
    try:
        return ends(kafka, topic) >= 0
    except KafkaException:
        return False


def make_books(database: Database) -> str:
    """Alice's subscription to her books, and many others to all of them."""
    database.execute("create table book (id int primary key, owner text, version int, price numeric, story text)")
    database.execute("alter table book replica identity full, alter story set storage external")
    database.execute("set session_replication_role = replica")
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " select gen_random_uuid(), 'book', '{\"role\": \"postgres\"}' from generate_series(1, %s)",
        (OTHERS,),
    )
    database.execute("reset session_replication_role")
    rows = database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims, filters) values"
        " (gen_random_uuid(), 'book', '{\"role\": \"postgres\"}',"
        " array[('owner', 'eq', 'alice')::realtime.user_defined_filter]) returning subscription_id::text"
    )
    return str(rows[0][0])


def change_books(database: Database, number: int) -> None:
    """Inserts, updates, moves of the key, deletes, and rows that change hands: one transaction, and some by themselves."""
    database.execute(
        "insert into book select n, (array['alice', 'bob'])[1 + n %% 2], 1, n + 0.50, repeat('long ', 600)"
        " from generate_series(%s::int, %s) n",
        (number * 100, number * 100 + 59),
    )
    first = number * 100
    database.execute("update book set version = version + 1 where id between %s and %s", (first, first + 30))
    database.execute("update book set owner = 'bob' where id between %s and %s", (first, first + 9))
    database.execute("update book set owner = 'alice' where id between %s and %s", (first + 5, first + 14))
    database.execute("update book set id = id + 70, version = version + 1 where id = %s", (first + 20,))
    database.execute("delete from book where id between %s and %s", (first + 40, first + 45))
    database.execute("insert into book values (%s, 'alice', 9, 1.10, 'again')", (first + 40,))


def test_the_copy_of_kafka_s_example_is_right_though_all_are_killed(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, example: Any, tmp_path: pathlib.Path
) -> None:
    alice = make_books(database)
    store, topic = tmp_path / "copy.db", f"{prefix}public.book"
    sink = kafka_sink(kafka, prefix, **{"message.max.bytes": 20_000})
    settings = config(database, sink, events={"leave": True})
    running = bridge(config=settings | SLOWLY)
    running.wait_until_streaming()
    consumer = example(sys.executable, str(EXAMPLES / "kafka_copy.py"), kafka.servers, topic, alice, str(store))

    for number in range(ROUNDS):
        before, handled = ends(kafka, topic), ask(store, "select count(*) from handled")
        change_books(database, number)
        running.wait_for(lambda before=before: ends(kafka, topic) > before, "some events")
        running.kill()
        running = bridge(config=settings if number == ROUNDS - 1 else settings | SLOWLY)
        running.wait_until_streaming()
        consumer.wait_for(lambda now=handled: ask(store, "select count(*) from handled") > now, "something handled")
        consumer.kill()
        if number == 1:
            kafka.kill()
            consumer.keep()
            kafka.restart()
            wait_until(lambda: leads(kafka, topic), "the topic's partitions after a restart")
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK

    # The topic has events of some changes twice
    messages = from_kafka(kafka, topic)
    mine = [each for each in messages if alice in each.value["subscription_ids"]]
    assert len({each.id for each in mine}) < len(mine)
    assert {each.headers.get("part") for each in mine} > {None}
    assert any("leave" in each.headers for each in mine)
    # And the copy each once: as many as there are ids, and what the table holds
    consumer.wait_for(
        lambda: ask(store, "select sum(next_offset) from place") == [(ends(kafka, topic),)], "the topic's end"
    )
    copy = {
        json.loads(key)["id"]: (json.loads(record), changes)
        for key, record, changes in ask(store, "select key, record, changes from copy")
    }
    columns = ("id", "owner", "version", "price", "story")
    table = database.execute("select id, owner, version, price::text, story from book where owner = 'alice'")
    assert {key: record for key, (record, _) in copy.items() if record} == {
        row[0]: dict(zip(columns, row, strict=True)) for row in table
    }
    changes: Counter[int] = Counter()
    for each in {each.id.split("/part-")[0]: each for each in mine}.values():
        wal = each.value["wal"]
        changes.update({(wal.get(row) or {}).get("id") for row in ("record", "old_record")} - {None})
    assert {key: count for key, (_, count) in copy.items()} == changes


def test_the_journal_of_rabbitmq_s_example_has_each_event_once_though_all_are_killed(
    database: Database, rabbitmq: RabbitMQ, prefix: str, bridge: Any, example: Any, tmp_path: pathlib.Path
) -> None:
    make_books(database)
    store, exchange = tmp_path / "journal.db", f"{prefix}public.book"
    # The same events go to the inbox, where duplicates are seen.
    settings = config(database, rabbitmq_sink(rabbitmq, prefix), events={"leave": True})
    running = bridge(config=settings | SLOWLY)
    running.wait_until_streaming()

    def arrived() -> int:
        with rabbitmq.connect() as connection:
            return int(connection.channel().queue_declare(f"{prefix}inbox", passive=True).method.message_count)

    program = str(EXAMPLES / "rabbitmq_journal.py")
    consumer = example(sys.executable, program, rabbitmq.url, exchange, f"{prefix}books", str(store))
    consumer.wait_for(lambda: f"{prefix}books" in rabbitmq.control("list_queues", "-q", "name"), "the queue")

    for number in range(ROUNDS):
        before, kept = arrived(), ask(store, "select count(*) from journal")
        change_books(database, number)
        running.wait_for(lambda before=before: arrived() > before, "some events")
        running.kill()
        running = bridge(config=settings if number == ROUNDS - 1 else settings | SLOWLY)
        running.wait_until_streaming()
        consumer.wait_for(lambda now=kept: ask(store, "select count(*) from journal") > now, "something new")
        consumer.kill()
        if number == 1:
            rabbitmq.kill()
            consumer.keep()
            rabbitmq.restart()
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK

    wait_for_empty = lambda: f"{prefix}books\t0" in rabbitmq.control("list_queues", "-q", "name", "messages")  # noqa: E731
    consumer.wait_for(wait_for_empty, "an empty queue")
    with rabbitmq.connect() as connection:
        channel, ids = connection.channel(), Counter()
        while (message := channel.basic_get(f"{prefix}inbox", auto_ack=True))[0] is not None:
            ids[message[1].headers["id"]] += 1
    assert max(ids.values()) > 1
    journal = ask(store, "select id, type, wal from journal order by id")
    assert [row[0] for row in journal] == sorted(ids)
    assert {row[1] for row in journal} == {"INSERT", "UPDATE", "DELETE", "LEAVE"}
    # Read by id, which sorts as changes do, it ends with the table as it is.
    books = {}
    for _, kind, wal in journal:
        change = json.loads(wal)
        if kind != "LEAVE":
            books.pop((change.get("old_record") or {}).get("id"), None)
            books.update({row["id"]: row["version"] for row in [change.get("record")] if row})
    assert sorted(books.items()) == database.execute("select id, version from book order by id")


def test_the_inboxes_of_the_java_example_have_each_event_once_for_each_subscriber(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, example: Any
) -> None:
    database.execute("create table book (id int primary key, title text, price numeric)")
    subscribers = [database.subscribe("book") for _ in range(3)]
    topic, inboxes = f"{prefix}public.book", f"{prefix}inboxes"
    settings = config(database, kafka_sink(kafka, prefix), delivery="exactly_once")
    running = bridge(config=settings)
    running.wait_until_streaming()
    java = shutil.which("java") or ""
    source = str(EXAMPLES / "KafkaInboxes.java")
    consumer = example(java, "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", source, kafka.servers, topic, inboxes)

    for number in range(ROUNDS):
        before, done = ends(kafka, topic), ends(kafka, inboxes)
        database.execute("insert into book select n, 'a', 1.10 from generate_series(%s::int, %s) n", _block(number))
        running.wait_for(lambda before=before: ends(kafka, topic) > before, "some events")
        running.kill()
        running = bridge(config=settings)
        running.wait_until_streaming()
        consumer.wait_for(lambda done=done: ends(kafka, inboxes) > done, "something in the inboxes")
        consumer.kill()
    database.wait_until_confirmed()
    assert running.stop() == Exit.OK

    count = ROUNDS * 1000
    consumer.wait_for(lambda: len(kafka.read(inboxes)) >= count * len(subscribers), "all in the inboxes")
    found = Counter((each.key().decode(), json.loads(each.value())["record"]["id"]) for each in kafka.read(inboxes))
    assert found == Counter({(each, number): 1 for each in subscribers for number in range(count)})
    assert all(b'"price":1.10' in each.value() for each in kafka.read(inboxes))
    assert len({dict(each.headers())["id"] for each in kafka.read(inboxes)}) == count


def _block(number: int) -> tuple[int, int]:
    return number * 1000, number * 1000 + 999
