"""What can never succeed goes to the dead letters, or stops the bridge; nothing else waits for it."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.errors import Exit
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ

UNNAMEABLE = "ä" * 31
"""Escaped, six characters for each: a schema and a table of that name are over what Kafka and AMQP allow."""


class Broker:
    """Its dead letters, and the events of the table `note`."""

    def __init__(self, server: Kafka | RabbitMQ, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self._notes: list[Any] = []

    @property
    def sink(self) -> dict[str, Any]:
        if isinstance(self.server, Kafka):
            return {"kafka": {"prefix": self.prefix, "client": {"bootstrap.servers": self.server.servers}}}
        queue = {"name": f"{self.prefix}inbox", "bindings": {f"{self.prefix}public.note": "#"}}
        return {"rabbitmq": {"prefix": self.prefix, "url": self.server.url, "queues": [queue]}}

    def letters(self) -> list[dict[str, Any]]:
        return [each["dead_letter"] for each in self._read(f"{self.prefix}dead-letter")]

    def notes(self) -> list[dict[str, Any]]:
        self._notes += self._read(
            f"{self.prefix}public.note" if isinstance(self.server, Kafka) else f"{self.prefix}inbox"
        )
        return [each["wal"]["record"] for each in self._notes]

    def distinct_notes(self) -> list[dict[str, Any]]:
        """Without what came again: RabbitMQ closes the channel over what is too large, so what was on its way does."""
        notes = self.notes()
        return [each for at, each in enumerate(notes) if each not in notes[:at]]

    def _read(self, name: str) -> list[dict[str, Any]]:
        if isinstance(self.server, Kafka):
            self._notes = []
            return [json.loads(message.value() or b"") for message in self.server.read(name)]
        found = []
        with self.server.connect() as connection:
            channel = connection.channel()
            while (message := channel.basic_get(name, auto_ack=True))[0] is not None:
                found.append(json.loads(message[2]))
        return found


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest, prefix: str) -> Broker:
    return Broker(request.getfixturevalue(request.param), prefix)


@pytest.fixture
def limit(broker: Broker) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """Make the broker refuse what is larger."""
    server = broker.server

    def limited(settings: dict[str, Any], size: int) -> None:
        if isinstance(server, Kafka):
            settings["sink"]["kafka"]["client"]["message.max.bytes"] = size
        else:
            server.control("eval", f"application:set_env(rabbit, max_message_size, {size}).")

    yield limited
    if isinstance(server, RabbitMQ):
        server.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")


def config(database: Database, sink: dict[str, Any], **sections: Any) -> dict[str, Any]:
    database.execute("create table if not exists note (id int primary key, body text)")
    return {
        "source": {"connection": database.dsn, "slot": database.slot},
        "sink": sink,
        "http": {"listen": None},
        **sections,
    }


def test_a_table_that_can_have_no_destination_keeps_no_other_from_its_own(
    database: Database, broker: Broker, bridge: Any
) -> None:
    settings = config(database, broker.sink)
    database.execute(f'create schema "{UNNAMEABLE}"; create table "{UNNAMEABLE}"."{UNNAMEABLE}" (id int primary key)')
    database.subscribe(f'"{UNNAMEABLE}"."{UNNAMEABLE}"')
    database.subscribe("note")
    running = bridge(config=settings)  # its start is not kept from it either
    running.wait_until_streaming()
    assert "a table has no destination" in running.stderr

    database.execute(f'insert into "{UNNAMEABLE}"."{UNNAMEABLE}" values (1); insert into note values (2)')
    database.wait_until_confirmed()

    (letter,) = broker.letters()
    assert "What to do" in letter["reason"]
    assert (letter["schema"], letter["table"]) == (UNNAMEABLE, UNNAMEABLE)
    assert letter["change"]["record"] == {"id": 1}
    assert broker.notes() == [{"id": 2, "body": None}]
    assert running.stop() == Exit.OK


def test_with_on_failure_stop_it_stops_and_the_position_stays(
    database: Database, kafka: Kafka, prefix: str, bridge: Any
) -> None:
    settings = config(database, Broker(kafka, prefix).sink, on_failure="stop")
    database.execute(f'create schema "{UNNAMEABLE}"; create table "{UNNAMEABLE}"."{UNNAMEABLE}" (id int primary key)')
    database.subscribe(f'"{UNNAMEABLE}"."{UNNAMEABLE}"')
    running = bridge(config=settings)
    running.wait_until_streaming()

    position = database.commit(f'insert into "{UNNAMEABLE}"."{UNNAMEABLE}" values (1)')

    assert running.wait() == Exit.POISON
    assert not database.is_past(position)

    # Once it has a name, the same change comes.
    settings["sink"]["kafka"]["topics"] = {f"{UNNAMEABLE}.{UNNAMEABLE}": f"{prefix}short"}
    again = bridge(config=settings)
    database.wait_until_confirmed()
    assert len(kafka.read(f"{prefix}short")) == 1
    assert again.stop() == Exit.OK


@pytest.mark.parametrize("on_failure", ["dead_letter", "stop"])
def test_an_event_too_large_for_the_broker_even_without_its_values_is_buried_or_stops_it(
    database: Database, broker: Broker, bridge: Any, limit: Callable[[dict[str, Any], int], None], on_failure: str
) -> None:
    settings = config(database, broker.sink, on_failure=on_failure)
    if isinstance(broker.server, RabbitMQ):
        settings["sink"]["rabbitmq"]["queues"][0]["bindings"][f"{broker.prefix}public.keyed"] = "#"
    limit(settings, 2_500)
    database.execute("create table keyed (id text primary key); alter table keyed alter id set storage external")
    for table in ("keyed", "note"):
        database.subscribe(table)
    running = bridge(config=settings)
    running.wait_until_streaming()

    # A key that PostgreSQL's index takes, being compressed there, and this broker does not.
    position = database.commit("insert into keyed values (repeat('x', 2600)); insert into note values (1)")

    if on_failure == "dead_letter":
        database.wait_until_confirmed()
        assert broker.distinct_notes() == [{"id": 1, "body": None}]
        letters = broker.letters()
        assert {(each["table"], each["truncated"]) for each in letters} == {("keyed", True)}
        assert all("larger than" in each["reason"] for each in letters)
        assert running.stop() == Exit.OK
        return
    assert running.wait() == Exit.POISON
    assert "What to do" in running.stderr
    assert not database.is_past(position)

    # Once the broker takes it, it comes.
    limit(settings, 100_000)
    again = bridge(config=settings)
    database.wait_until_confirmed()
    if isinstance(broker.server, Kafka):
        assert len(broker.server.read(f"{broker.prefix}public.keyed")) == 1
    # The other table's event may have gone before the stop, and goes again.
    found = broker.distinct_notes()
    assert {"id": 1, "body": None} in found
    assert isinstance(broker.server, Kafka) or {"id": "x" * 2600} in found
    assert broker.letters() == []
    assert again.stop() == Exit.OK


def test_a_policy_that_raises_keeps_only_its_own_from_their_events(database: Database, bridge: Any) -> None:
    settings = config(database, {"stdout": {}})
    database.execute("""
        create table broken (id int primary key);
        grant select on note, broken to anon;
        alter table note enable row level security;
        alter table broken enable row level security;
        create policy by_claims on note to anon using ((auth.jwt() ->> 'level')::int > 0);
        create policy never on broken to anon using (1 / (id - id) = 1);
    """)
    good = database.subscribe("note", role="anon", level="1")
    bad = database.subscribe("note", role="anon", level="none")
    owner = database.subscribe("note")
    broken = database.subscribe("broken", role="anon")
    running = bridge(config=settings)
    running.wait_until_streaming()

    with database.connection.transaction():
        database.execute("insert into broken values (1)")
        database.execute("insert into note values (1)")
        database.execute("insert into broken values (2)")
    database.wait_until_confirmed()

    assert sorted(each["subscription_ids"] for each in running.events) == sorted([[good], [owner]])
    letters = running.dead_letters
    told = sorted((each["table"], [one["subscription_id"] for one in each["undecided"]]) for each in letters)
    assert told == [("broken", [broken]), ("broken", [broken]), ("note", [bad])]
    assert all({"reason", "id", "lsn", "commit_lsn", "schema", "change"} <= set(each) for each in letters)
    assert running.stop() == Exit.OK


def test_the_position_waits_for_the_dead_letter_s_acknowledgement(
    database: Database, broker: Broker, bridge: Any
) -> None:
    settings = config(database, broker.sink)
    database.execute("""
        grant select on note to anon;
        alter table note enable row level security;
        create policy never on note to anon using (1 / (id - id) = 1);
    """)
    database.subscribe("note", role="anon")
    running = bridge(config=settings)
    running.wait_until_streaming()
    database.wait_until_confirmed()

    broker.server.pause()
    try:
        position = database.commit("insert into note values (1)")
        running.wait_for(lambda: "quarantined" in running.stderr, "the dead letter")
        time.sleep(1)
        assert not database.is_past(position)
    finally:
        broker.server.resume()
    database.wait_until_confirmed()
    assert len(broker.letters()) == 1
    assert running.stop() == Exit.OK


def test_a_dead_letter_too_large_for_the_broker_goes_without_its_values_or_in_parts(
    database: Database, broker: Broker, bridge: Any, limit: Callable[[dict[str, Any], int], None]
) -> None:
    settings = config(database, broker.sink)
    limit(settings, 5_000)
    database.execute("""
        create table secret (id int primary key, body text);
        grant select on secret to anon;
        alter table secret enable row level security;
        create policy never on secret to anon using (1 / (id - id) = 1);
    """)
    ids = {database.subscribe("secret", role="anon", sub=str(number)) for number in range(60)}
    database.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into secret values (1, repeat('x', 30000)); insert into note values (1)")
    database.wait_until_confirmed()

    assert broker.distinct_notes() == [{"id": 1, "body": None}]
    letters = broker.letters()
    assert len({each["id"] for each in letters}) == len(letters)
    assert {one["subscription_id"] for each in letters for one in each["undecided"]} == ids
    assert all(each["truncated"] and each["reason"] and each["table"] == "secret" for each in letters)
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("retyped", [False, True])
def test_a_value_that_cannot_be_cast_any_more_keeps_only_those_from_it_who_need_the_cast(
    database: Database, bridge: Any, retyped: bool
) -> None:
    settings = config(database, {"stdout": {}})
    database.execute("""
        create type mood as enum ('fine', 'gone');
        create domain short as text;
        create table typed (id int primary key, mood mood, word short, size text);
        grant select on typed to anon;
        alter table typed enable row level security;
        create policy moody on typed to anon using (mood is not null);
    """)
    owner = database.subscribe("typed")
    anon = database.subscribe("typed", role="anon")
    filtered = database.subscribe("typed")
    database.execute(
        "update realtime.subscription set filters = array[('size', 'eq', 'large')]::realtime.user_defined_filter[]"
        " where subscription_id = %s",
        (filtered,),
    )
    running = bridge(config=settings)
    running.wait_until_streaming()
    assert running.stop() == Exit.OK

    database.execute("""
        insert into typed values (1, 'gone', 'ok', '7'), (2, 'fine', 'long enough', '7'), (3, 'fine', 'ok', '7');
        delete from typed where id < 3;
        alter type mood rename value 'gone' to 'other';
        alter domain short add check (length(value) < 5);
    """)
    if retyped:  # now every row has to be cast, for whomever
        database.execute("alter table typed alter size type int using size::int")
    again = bridge(config=settings)
    database.wait_until_confirmed()

    events = {
        (each["wal"]["record"]["id"], *each["subscription_ids"])
        for each in again.events
        if each["wal"]["type"] == "INSERT"
    }
    letters = [
        (each["change"]["record"]["id"], [one["subscription_id"] for one in each["undecided"]], each["reason"])
        for each in again.dead_letters
    ]
    mood, word = 'enum public.mood: "gone"' if retyped else 'enum mood: "gone"', "violates check constraint"
    if retyped:
        assert events == {(3, anon), (3, owner)}
        found = [
            ("1", [], mood),
            ("2", [], word),
            ("3", [filtered], "filter: 22P02: invalid input syntax for type int"),
        ]
    else:
        assert events == {(1, owner), (2, owner), (3, owner), (3, anon)}
        found = [("1", [anon], mood), ("2", [anon], word)]
    assert [each[:2] for each in letters] == [each[:2] for each in found]
    assert all(part in reason for (*_, reason), (*_, part) in zip(letters, found, strict=True)), letters
    assert again.stop() == Exit.OK


def test_a_value_that_its_type_refuses_stops_it_and_comes_once_the_type_takes_it(
    database: Database, bridge: Any
) -> None:
    settings = config(database, {"stdout": {}}, on_failure="stop")
    database.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()
    assert running.stop() == Exit.OK

    position = database.commit("insert into note values (1, 'word')")
    database.execute("alter table note alter body type int using 0")
    stopped = bridge(config=settings)
    assert stopped.wait() == Exit.POISON
    assert "can never be delivered: the change does not fit the table" in stopped.stderr
    assert stopped.events == []
    assert not database.is_past(position)

    database.execute("alter table note alter body type text")
    again = bridge(config=settings)
    (event,) = again.wait_for_events(1)
    assert event["wal"]["record"] == {"id": 1, "body": "word"}
    assert again.stop() == Exit.OK
