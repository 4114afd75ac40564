"""A consumer group goes back to the LSN of a backup."""

from collections.abc import Iterator

import pytest

from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.acceptance.topics import consume, consumer
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until


@pytest.fixture
def group(kafka: Kafka) -> Iterator[str]:
    yield "billing"
    admin = kafka.admin
    admin.delete_consumer_groups(["billing"])["billing"].result(10)


def test_replay_kafka(desk: Desk, kafka: Kafka, group: str) -> None:
    # Given a group that has read all there is, and the LSN of a moment before
    database = desk.database
    database.execute("create table book (id int primary key, title text)")
    database.execute("create table author (id int primary key, name text)")
    database.subscribe("book")
    database.subscribe("author")
    running = desk.start(
        desk.settings({"kafka": {"create_topics": {"partitions": 3}, "client": {"bootstrap.servers": kafka.servers}}})
    )
    database.execute("insert into book select n, 'Book ' || n from generate_series(1, 20) n")
    ((lsn,),) = database.execute("select pg_current_wal_lsn()::text")
    for number in range(21, 31):
        database.execute("insert into book values (%s::int, 'Book ' || %s::int)", (number, number))
    database.execute("insert into author values (1, 'Foo')")
    database.execute("update author set name = 'Bar'")
    database.wait_until_confirmed()
    books, authors = (f"{desk.prefix}public.{table}" for table in ("book", "author"))
    assert (len(consume(kafka, group, books)), len(consume(kafka, group, authors))) == (30, 2)
    book = desk.book("replay-kafka")
    book.bind("0/159CE00", lsn)
    book.run(until="--apply")

    # When a consumer is there, and when it is gone
    member = consumer(kafka, group)
    try:
        member.subscribe([books, authors])
        wait_until(lambda: member.poll(0.1) is None and member.assignment(), "its partitions")
        book.run(until="--apply")
    finally:
        member.close()
    book.run()

    # Then the group gets what came since, once more
    assert sorted(int(each.key()[6:-1]) for each in consume(kafka, group, books)) == list(range(21, 31))
    assert len(consume(kafka, group, authors)) == 2
    book.finished()
    assert running.stop() == Exit.OK
