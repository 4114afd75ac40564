"""The main job into real brokers: what arrives, and that the position waits for their acknowledgement."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from bridge.errors import Exit
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until

Contents = Callable[[], list[dict[str, Any]]]
"""All events that the broker holds for the table `note`, as JSON."""


class Broker:
    """A broker as these tests see it."""

    def __init__(self, server: Kafka | RabbitMQ, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self._messages: list[dict[str, Any]] = []

    @property
    def sink(self) -> dict[str, Any]:
        if isinstance(self.server, Kafka):
            return {"kafka": {"prefix": self.prefix, "client": {"bootstrap.servers": self.server.servers}}}
        queue = {"name": f"{self.prefix}inbox", "bindings": {f"{self.prefix}public.note": "#"}}
        return {"rabbitmq": {"prefix": self.prefix, "url": self.server.url, "queues": [queue]}}

    def contents(self) -> list[dict[str, Any]]:
        if isinstance(self.server, Kafka):
            return [json.loads(message.value() or b"") for message in self.server.read(f"{self.prefix}public.note")]
        with self.server.connect() as connection:
            channel = connection.channel()
            while (found := channel.basic_get(f"{self.prefix}inbox", auto_ack=True))[0] is not None:
                self._messages.append(json.loads(found[2]))
        return self._messages


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest, prefix: str) -> Broker:
    return Broker(request.getfixturevalue(request.param), prefix)


def config(database: Database, broker: Broker, **sections: Any) -> dict[str, Any]:
    database.execute("create table if not exists note (id int primary key, body text)")
    source = {"connection": database.dsn, "slot": database.slot}
    return {"source": source, "sink": broker.sink, "http": {"listen": None}, **sections}


READ = (
    "select sent_lsn >= %s::pg_lsn from pg_stat_replication"
    " where pid = (select active_pid from pg_replication_slots where slot_name = %s)"
)


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [event["wal"]["record"]["id"] for event in events]


def test_a_change_arrives_and_is_confirmed(database: Database, broker: Broker, bridge: Any) -> None:
    settings = config(database, broker)
    subscription = database.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into note values (1, 'Foo')")
    database.wait_until_confirmed()

    (event,) = broker.contents()
    assert event["wal"]["record"] == {"id": 1, "body": "Foo"}
    assert event["subscription_ids"] == [subscription]
    assert running.stop() == Exit.OK


def test_nothing_is_confirmed_before_the_broker_has_acknowledged(
    database: Database, broker: Broker, bridge: Any
) -> None:
    settings = config(database, broker)
    database.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()
    database.execute("insert into note values (0)")
    database.wait_until_confirmed()

    broker.server.pause()
    try:
        position = database.commit("insert into note select generate_series(1, 500)")
        time.sleep(2)
        assert not database.is_past(position)
    finally:
        broker.server.resume()

    database.wait_until_confirmed()
    assert sorted(ids(broker.contents())) == list(range(501))
    assert running.stop() == Exit.OK


def test_a_stop_with_the_broker_away_gives_up_and_the_rest_comes_after_a_restart(
    database: Database, broker: Broker, bridge: Any
) -> None:
    settings = config(database, broker)
    database.subscribe("note")
    first = bridge(config=settings)
    first.wait_until_streaming()
    database.execute("insert into note values (0)")
    database.wait_until_confirmed()

    broker.server.pause()
    try:
        position = database.commit("insert into note select generate_series(1, 100)")
        wait_until(lambda: database.execute(READ, (position, database.slot)) == [(True,)], "the bridge has read them")
        time.sleep(1)
        assert first.stop() == Exit.UNDELIVERED
        assert "come again" in first.stderr
    finally:
        broker.server.resume()

    second = bridge(config=settings)
    second.wait_until_streaming()
    database.wait_until_confirmed()
    assert set(ids(broker.contents())) == set(range(101))
    assert second.stop() == Exit.OK


def test_a_killed_bridge_and_a_killed_broker_lose_nothing(database: Database, broker: Broker, bridge: Any) -> None:
    settings = config(database, broker)
    database.subscribe("note")
    for number in range(3):
        running = bridge(config=settings)
        running.wait_until_streaming()
        database.execute("insert into note select generate_series(%s::int, %s)", (number * 1000, number * 1000 + 999))
        running.kill()
    running = bridge(config=settings)
    running.wait_until_streaming()
    broker.server.kill()
    database.execute("insert into note select generate_series(3000, 3999)")
    time.sleep(1)
    broker.server.restart()

    database.wait_until_confirmed()

    assert set(ids(broker.contents())) == set(range(4000))
    if isinstance(broker.server, RabbitMQ):
        assert "rabbitmq lost, reconnecting" in running.stderr
        assert "pika" not in running.stderr, "it is told once"
    assert running.stop() == Exit.OK


def test_an_event_larger_than_the_broker_takes_goes_as_413(
    database: Database, kafka: Kafka, prefix: str, bridge: Any
) -> None:
    broker = Broker(kafka, prefix)
    settings = config(database, broker)
    settings["sink"]["kafka"]["client"]["message.max.bytes"] = 20_000
    database.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into note values (1, repeat('x', 30000)), (2, 'small')")
    database.wait_until_confirmed()

    found = sorted(broker.contents(), key=lambda event: event["wal"]["record"]["id"])
    assert [event["errors"] for event in found] == [["Error 413: Payload Too Large"], []]
    assert found[0]["wal"]["record"] == {"id": 1}
    assert running.stop() == Exit.OK


def test_a_quarantined_change_is_in_the_brokers_dead_letters(database: Database, broker: Broker, bridge: Any) -> None:
    settings = config(database, broker)
    database.execute("""
        grant select on note to anon;
        alter table note enable row level security;
        create policy raising on note to anon using (1 / (id - 7) is not null);
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into note values (6), (7), (8)")
    database.wait_until_confirmed()

    assert sorted(ids(broker.contents())) == [6, 8]
    name = f"{broker.prefix}dead-letter"
    if isinstance(broker.server, Kafka):
        (letter,) = [json.loads(message.value() or b"") for message in broker.server.read(name)]
    else:
        with broker.server.connect() as connection:
            letter = json.loads(connection.channel().basic_get(name, auto_ack=True)[2])
    assert letter["dead_letter"]["change"]["record"]["id"] == "7"
    assert "division by zero" in letter["dead_letter"]["reason"]
    assert re.fullmatch(r"\d+-1/[0-9A-F]{16}/[0-9A-F]{16}/[0-9A-F]{8}/public\.note", letter["dead_letter"]["id"])
    assert running.stop() == Exit.OK
