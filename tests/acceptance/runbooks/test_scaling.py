"""One bridge streams two tables: one of them gets a bridge of its own, and the topic of the other more partitions."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from confluent_kafka import Consumer

from bridge.cluster import free_port
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until

OWN = "owner = auth.uid()"
ROWS = 40


def merged(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return settings | {
        key: merged(settings.get(key) or {}, value) if isinstance(value, dict) else value for key, value in more.items()
    }


class Group:
    """A consumer group of one member, and in what order it gets the versions of a row."""

    def __init__(self, kafka: Kafka, topics: list[str]) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": kafka.servers, "group.id": "search", "auto.offset.reset": "earliest"}
            | {"enable.auto.commit": False, "topic.metadata.refresh.interval.ms": 200}
        )
        self._consumer.subscribe(topics)
        self.rows: dict[tuple[str, bytes], list[str]] = defaultdict(list)

    def read_until(self, events: int) -> None:
        """It has had so many by now."""

        def has() -> bool:
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                headers = {name: value.decode() for name, value in message.headers() or []}
                self.rows[message.topic() or "", message.key() or b""].append(headers["id"])
            return sum(map(len, self.rows.values())) >= events

        wait_until(has, f"{events} events", 30)
        self._consumer.commit(asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def group(kafka: Kafka, prefix: str) -> Iterator[Group]:
    made = Group(kafka, [f"{prefix}public.book", f"{prefix}public.reading"])
    yield made
    made.close()


def test_scaling(desk: Desk, kafka: Kafka, group: Group, bridge: Callable[..., BridgeProcess]) -> None:
    database = desk.database
    database.execute("create table book (id int primary key, owner uuid, title text)")
    database.execute("create table reading (id int primary key, value float)")
    database.execute(f"create function is_own(owner uuid) returns bool language sql stable as 'select {OWN}'")
    database.execute("alter table book enable row level security; grant select on book to authenticated")
    database.execute("create policy own on book to authenticated using (is_own(owner))")
    alice = "00000000-0000-0000-0000-000000000001"
    for number in range(1, 6):
        database.subscribe("book", "authenticated", sub=f"00000000-0000-0000-0000-00000000000{number}")
    database.subscribe("reading")
    topics = {"create_topics": {"partitions": 2}, "client": {"bootstrap.servers": kafka.servers}}
    settings = desk.settings({"kafka": topics})
    running = desk.start(settings)

    def write() -> None:
        """ROWS changes of each table, always of the same rows."""
        for table, values in {"book": f"'{alice}', 'Foo'", "reading": "12.5"}.items():
            column, new = {"book": ("title", "'Bar'"), "reading": ("value", "13.5")}[table]
            database.execute(
                f"insert into {table} select n, {values} from generate_series(1, {ROWS}) n"
                f" on conflict (id) do update set {column} = {new}"
            )

    write()
    database.wait_until_confirmed()
    desk.has_kafka(kafka)
    book = desk.book("scaling")
    book.bind("127.0.0.1:9188", f"127.0.0.1:{free_port()}")
    book.bind("localhost:9092", kafka.servers)

    # Policies
    book.run()
    database.execute(book.text())
    book.run(until="max_replication_slots")
    # A second bridge
    book.run()
    second = merged(settings, yaml.safe_load(book.text()))
    path = desk.folder / "bridge-reading.yaml"
    path.write_text(yaml.safe_dump(second))
    write()
    assert running.stop() == 0
    write()
    book.run()
    settings = merged(settings, yaml.safe_load(book.text()))
    running = desk.start(settings)
    book.run(until="kafka-consumer-groups")
    other = bridge(arguments=("run", "--config", str(path)))
    other.wait_until_streaming()
    for each, table in ((running, "book"), (other, "reading")):
        assert f" tables=['public.{table}'] " in each.stderr
    write()
    # More partitions
    group.read_until(2 * 4 * ROWS)
    assert running.stop() == 0
    write()
    book.run(until="status")
    running = desk.start(settings)
    write()
    group.read_until(2 * 6 * ROWS)
    for slot in ("realtime_reading", "realtime"):
        database.slot = slot
        database.wait_until_confirmed()
    book.run()
    book.finished()

    assert running.stop() == 0
    assert other.stop() == 0
    # Each change once and in order, and the new partitions are used
    assert len(group.rows) == 2 * ROWS
    assert {len(ids) for ids in group.rows.values()} == {6}
    assert all(ids == sorted(set(ids)) for ids in group.rows.values())
    assert {message.partition() for message in kafka.read(f"{desk.prefix}public.book")} == {0, 1, 2, 3}
