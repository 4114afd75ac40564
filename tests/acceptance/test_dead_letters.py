"""`walrus-bridge dead-letter`: what could not be decided is tried again for those concerned, and nothing is lost on the way."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it is public
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic

from bridge import config_file
from bridge.errors import Exit
from bridge.event import short_hash
from bridge.sinks import count_letters
from tests import command
from tests.acceptance.replaying import keep_from_here
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import PATIENCE, wait_until

ALICE, BOB = "a11ce000-0000-4000-8000-000000000001", "b0b00000-0000-4000-8000-000000000002"

NOTE = """
    create table note (id int primary key, owner text, body text);
    grant select on note to anon;
    alter table note enable row level security;
    create policy by_level on note to anon using ((auth.jwt() ->> 'level')::int > 0);
"""
MENDED = "alter policy by_level on note to anon using (auth.jwt() ->> 'level' <> 'none')"


class World:
    """A broker, and the bridge's commands about it."""

    def __init__(
        self, server: Kafka | RabbitMQ, database: Database, prefix: str, run: Callable[..., command.Done]
    ) -> None:
        self.server = server
        self.database = database
        self.prefix = prefix
        self._run = run
        self._seen: dict[str, list[tuple[str, bytes]]] = {}
        self.settings: dict[str, Any] = {
            "source": {"connection": database.dsn, "slot": database.slot},
            "sink": self._sink("note"),
            "http": {"listen": None},
        }

    def _sink(self, *tables: str) -> dict[str, Any]:
        if isinstance(self.server, Kafka):
            return {"kafka": {"prefix": self.prefix, "client": {"bootstrap.servers": self.server.servers}}}
        queues = [
            {"name": f"{self.prefix}inbox.{table}", "bindings": {f"{self.prefix}public.{table}": "#"}}
            for table in tables
        ]
        return {"rabbitmq": {"prefix": self.prefix, "url": self.server.url, "queues": queues}}

    def with_tables(self, *tables: str) -> None:
        self.settings["sink"] = self._sink(*tables)

    def command(self, name: str, *arguments: str, stdin: str = "") -> command.Done:
        return self._run("dead-letter", name, *arguments, "--config", "retry.yaml", stdin=stdin)

    def letters(self) -> list[dict[str, Any]]:
        done = self.command("list", "--json")
        assert (done.status, done.stderr) == (0, "")
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def events(self, table: str = "note") -> list[tuple[str, bytes]]:
        """Id and value of all that have arrived."""
        if isinstance(self.server, Kafka):
            messages = self.server.read(f"{self.prefix}public.{table}")
            return [(dict(each.headers() or [])["id"].decode(), each.value() or b"") for each in messages]  # type: ignore[union-attr]
        seen = self._seen.setdefault(table, [])
        with self.server.connect() as connection:
            channel = connection.channel()
            while (message := channel.basic_get(f"{self.prefix}inbox.{table}", auto_ack=True))[0] is not None:
                seen.append((message[1].headers["id"], message[2]))
        return list(seen)

    def put_letter(self, value: bytes, key: str) -> None:
        """As somebody else might."""
        if isinstance(self.server, Kafka):
            producer = Producer({"bootstrap.servers": self.server.servers})
            producer.produce(f"{self.prefix}dead-letter", value, key)
            producer.flush(10)
        else:
            with self.server.connect() as connection:
                properties = pika.BasicProperties(delivery_mode=2, headers={"id": key})
                connection.channel().basic_publish("", f"{self.prefix}dead-letter", value, properties)


@pytest.fixture
def run(walrus_bridge: Callable[..., command.Done]) -> Callable[..., command.Done]:
    return walrus_bridge


@pytest.fixture(params=["kafka", "rabbitmq"])
def world(
    request: pytest.FixtureRequest, database: Database, prefix: str, run: Callable[..., command.Done], tmp_path: Any
) -> Iterator[World]:
    made = World(request.getfixturevalue(request.param), database, prefix, run)
    yield made


@pytest.fixture
def kafka_world(kafka: Kafka, database: Database, prefix: str, run: Callable[..., command.Done]) -> World:
    return World(kafka, database, prefix, run)


@pytest.fixture
def streamed(bridge: Callable[..., Any], tmp_path: Any) -> Callable[..., Any]:
    """Run the bridge over some SQL, until it is confirmed; it goes on."""

    def stream(world: World, *statements: str) -> Any:
        (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")
        running = bridge(config=world.settings)
        running.wait_until_streaming()
        for statement in statements:
            world.database.execute(statement)
        world.database.wait_until_confirmed()
        return running

    return stream


def wal(value: bytes) -> bytes:
    """The event's value without its subscribers: byte by byte what everybody gets."""
    return value[: value.index(b'"subscription_ids"')]


def audience(value: bytes) -> list[str]:
    found: list[str] = json.loads(value)["subscription_ids"]
    return found


AWKWARD = """
    create type mood as enum ('fine', 'it''s "so"');
    create domain price as numeric check (value >= 0);
    create table note (
        id bigint primary key, level text, amount numeric, cost price, ratio float8, single float4, flag bool, raw bytea,
        doc jsonb, plain json, tags text[], pairs int[], mood mood, at timestamptz, day date, uid uuid, net inet, span int4range,
        fixed char(5), bits bit(3), bare oid, body text, "odd ""name" text);
    alter table note alter body set storage external;
    grant select on note to anon;
    alter table note enable row level security;
    create policy by_level on note to anon using ((auth.jwt() ->> 'level')::int > 0);
"""
ROW = r"""
    insert into note values (9007199254740993, 'x', 12345678901234567890.123456789000, 0.10, 1e300, 1.1, true, '\x00ff5c22',
      '{"a": [1.10, "\u00e4\n"], "n": 12345678901234567890.10}', '{"b" : 1.00,  "a": null}', array['a,b', null, 'c"d\e'],
      '[0:1]={7,8}', 'it''s "so"', '2024-02-29 12:00:00.123456+02', '0044-03-15 BC', gen_random_uuid(), '10.0.0.0/8', '[1,5)',
      'ab', B'101', 4000000000, repeat('long ', 1000), E'tab\tquote"back\\slash\nnew \u2028 \u00e4\U0001F600 \u007f\u0001');
    update note set amount = -0.000, flag = null;
    update note set id = 2;
    delete from note;
"""


@pytest.mark.versions
@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_a_retried_event_is_byte_by_byte_what_the_others_got(
    kafka_world: World, streamed: Callable[..., Any], plugin: str
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute(AWKWARD)
    good = database.subscribe("note", role="anon", level="1")
    bad = database.subscribe("note", role="anon", level="none")
    if plugin == "pgoutput":
        database.execute("create publication everything for table realtime.subscription, note")
        world.settings["source"] |= {"plugin": plugin, "publication": "everything"}
    extra = "insert into note (id, ratio, amount) values (3, 'NaN', 'NaN');" if plugin == "pgoutput" else ""
    streamed(world, *filter(None, (ROW + extra).split(";\n")))

    before = {event_id: value for event_id, value in world.events() if bad not in audience(value)}
    assert len(before) >= 3
    letters = world.letters()
    assert all(each["can_be_retried"] and each["undecided"] == 1 for each in letters)
    assert len(letters) == len([value for value in before.values() if json.loads(value)["wal"]["type"] != "DELETE"])

    database.execute("alter policy by_level on note to anon using (true)")
    done = world.command("retry", "--all")
    assert (done.status, done.stderr) == (0, "")

    retried = {event_id: value for event_id, value in world.events() if "/retry-" in event_id}
    assert len(retried) == len(letters)
    for event_id, value in retried.items():
        original, _, suffix = event_id.rpartition("/retry-")
        assert suffix == short_hash([bad])
        assert audience(value) == [bad]
        assert audience(before[original]) == [good]
        assert wal(value) == wal(before[original])
    assert world.letters() == []


def test_it_is_judged_as_of_now_and_the_letter_stays_for_those_who_are_still_undecided(
    world: World, streamed: Callable[..., Any]
) -> None:
    database = world.database
    database.execute(NOTE)
    good = database.subscribe("note", role="anon", level="1")
    soon = database.subscribe("note", role="anon", level="soon")
    never = database.subscribe("note", role="anon", level="never")
    shut = database.subscribe("note", role="anon", level="none")
    gone = database.subscribe("note", role="anon", level="gone")
    streamed(world, "insert into note values (1, 'a', 'x')")
    (letter,) = world.letters()
    assert letter["undecided"] == 4
    assert [audience(value) for _, value in world.events()] == [[good]]

    # One may see it now, one may not, one is gone, one still raises.
    database.execute("delete from realtime.subscription where subscription_id = %s", (gone,))
    database.execute("""
        alter policy by_level on note to anon using (case auth.jwt() ->> 'level' when 'none' then false when 'soon' then true
          else (auth.jwt() ->> 'level')::int > 0 end)
    """)
    done = world.command("retry", letter["id"])
    done.refused(Exit.LETTERS_LEFT, "1 dead letter could not be done with")
    assert "1 event for 1 subscription, still undecided: 1: policy: 22P02" in done.stdout

    assert [audience(value) for _, value in world.events()] == [[good], [soon]]
    (left,) = world.letters()
    assert (left["id"], left["undecided"]) == (letter["id"], 1)
    (shown,) = [json.loads(world.command("show", "--json", letter["id"]).stdout)["dead_letter"]]
    assert [each["subscription_id"] for each in shown["undecided"]] == [never]
    assert shown["change"]["record"] == {"id": "1", "owner": "a", "body": "x"}

    # Again, with nothing mended: nothing goes twice.
    assert world.command("retry", "--all").status == Exit.LETTERS_LEFT
    assert len(world.events()) == 2
    assert world.letters() == [left]

    database.execute(MENDED)
    assert world.command("retry", "--all").status == 0
    assert [audience(value) for _, value in world.events()] == [[good], [soon], [never]]
    assert world.letters() == []
    assert shut not in str(world.events())


def test_whoever_lost_the_right_to_see_it_is_not_let_in(world: World, streamed: Callable[..., Any]) -> None:
    database = world.database
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="none")
    filtered = database.subscribe("note", role="anon", level="other")
    streamed(world, "insert into note values (1, 'a', 'x')")

    database.execute("alter policy by_level on note to anon using (auth.jwt() ->> 'level' = 'other')")
    database.execute(
        "update realtime.subscription set filters = array[('body', 'eq', 'y')]::realtime.user_defined_filter[]"
        " where subscription_id = %s",
        (filtered,),
    )
    done = world.command("retry", "--all")
    assert (done.status, world.letters()) == (0, [])
    assert "nobody may see it" in done.stdout
    assert world.events() == []


STANDS_STILL = """
import time
from bridge.cli import main
from bridge.sinks.kafka_letters import KafkaLetters
from bridge.sinks.rabbitmq_letters import RabbitMQLetters
def settle(*_):
    print("between", flush=True)
    time.sleep(600)
KafkaLetters.settle = RabbitMQLetters.settle = settle
main()
"""
"""The command as it is, but that it stops for good between the events' acknowledgement and the letters' end."""


def test_killed_between_the_event_and_the_letter_s_end_it_comes_again_under_the_same_id(
    world: World, streamed: Callable[..., Any], tmp_path: Any
) -> None:
    database = world.database
    database.execute(NOTE)
    bad = database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')", "update note set body = 'y'")
    before = world.letters()
    assert len(before) == 2
    database.execute("alter policy by_level on note to anon using (true)")

    line = [
        sys.executable,
        "-c",
        STANDS_STILL,
        "dead-letter",
        "retry",
        "--all",
        "--config",
        str(tmp_path / "retry.yaml"),
    ]
    with subprocess.Popen(line, env=command.environment(), stdout=subprocess.PIPE, text=True) as retrying:
        assert retrying.stdout is not None
        assert retrying.stdout.readline() == "between\n"
        arrived = world.events()
        retrying.kill()

    assert [audience(value) for _, value in arrived] == [[bad], [bad]]
    assert wait_until(lambda: world.letters(), "the letters") == before
    done = world.command("retry", "--all")
    assert (done.status, world.letters()) == (0, []), done.stderr
    again = world.events()
    assert len(again) == 4
    assert {each for each, _ in again} == {each for each, _ in arrived}
    assert len({each for each, _ in arrived}) == 2


def test_ctrl_c_while_a_policy_is_asked_ends_it_and_loses_nothing(
    kafka_world: World, streamed: Callable[..., Any], tmp_path: Any
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    before = world.letters()
    database.execute("alter policy by_level on note to anon using (pg_sleep(4) is not null)")
    line = [command.program(), "dead-letter", "retry", "--all", "--config", str(tmp_path / "retry.yaml")]
    asked = "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    with subprocess.Popen(line, env=command.environment(), stderr=subprocess.PIPE, text=True) as retrying:
        wait_until(lambda: database.execute(asked), "the policy's being asked")
        retrying.send_signal(signal.SIGINT)
        assert retrying.stderr is not None
        assert retrying.stderr.read().strip() == "walrus-bridge: ended before it was done"
        assert retrying.wait(PATIENCE) == 130
    assert world.letters() == before


def test_where_the_letter_s_end_is_refused_it_stays_and_the_command_says_so(
    kafka_world: World, streamed: Callable[..., Any]
) -> None:
    world, database, kafka = kafka_world, kafka_world.database, kafka_world.server
    assert isinstance(kafka, Kafka)
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    before = world.letters()
    database.execute("alter policy by_level on note to anon using (true)")
    limit(kafka, f"{world.prefix}dead-letter", 10)

    world.command("retry", "--all").refused(Exit.SINK_REFUSED, "The letter stays", "What to do")
    world.command("drop", "--all", "--yes").refused(Exit.SINK_REFUSED, "The letter stays", "What to do")
    assert world.letters() == before

    limit(kafka, f"{world.prefix}dead-letter", 1_000_000)
    assert world.command("retry", "--all").status == 0
    assert world.letters() == []
    assert len({each for each, _ in world.events()}) == 1


def limit(kafka: Kafka, topic: str, size: int) -> None:
    """The largest message that it takes. Returns when that holds."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    producer = Producer({"bootstrap.servers": kafka.servers})

    def is_taken() -> bool:
        fates: list[bool] = []
        producer.produce(topic, None, "nobody's", on_delivery=lambda error, _: fates.append(error is None))
        producer.flush(10)
        return fates == [True]

    wait_until(lambda: is_taken() is (size > 100), f"a limit of {size} bytes")


def test_letters_are_listed_shown_and_dropped(world: World, streamed: Callable[..., Any]) -> None:
    database = world.database
    database.execute(NOTE)
    database.execute('create table "Odd, table" (like note including all)')
    database.execute("""
        grant select on "Odd, table" to anon;
        alter table "Odd, table" enable row level security;
        create policy never on "Odd, table" to anon using (1 / (id - id) = 1);
    """)
    database.subscribe("note", role="anon", level="none")
    database.subscribe('"Odd, table"', role="anon", level="none")
    streamed(
        world,
        "insert into note values (1, 'a', E'two\\nlines \\u001b[31m')",
        "insert into \"Odd, table\" values (1, 'a', 'x')",
        "insert into note values (2, 'b', 'x')",
    )
    found = world.letters()
    assert [each["table"] for each in found] == ["note", "Odd, table", "note"]
    assert sorted(each["id"] for each in found) == [each["id"] for each in found]
    listed = world.command("list", "--table", "public.Odd, table").stdout
    assert found[1]["id"] in listed
    assert "policy: 22012: division by zero" in listed
    assert (
        f"1 dead letter in {'topic' if isinstance(world.server, Kafka) else 'queue'} {world.prefix}dead-letter"
        in listed
    )

    shown = world.command("show", found[0]["id"]).stdout
    assert 'record       body = "two\\nlines \\u001b[31m"' in shown
    assert f"walrus-bridge dead-letter retry {found[0]['id']}" in shown

    world.command("show", "nothing").refused(Exit.LETTERS_LEFT, "no dead letter nothing", "dead-letter list")
    for arguments in (["retry"], ["drop", "--all", found[0]["id"]], ["drop", found[0]["id"], "--table", "public.note"]):
        assert world.command(*arguments).status == Exit.USAGE

    refused = world.command("drop", found[0]["id"], stdin="n\n")
    assert (refused.status, len(world.letters())) == (130, 3)
    dropped = world.command("drop", found[0]["id"], stdin="y\n")
    assert f"dropped  {found[0]['id']}" in dropped.stdout
    assert [each["id"] for each in world.letters()] == [each["id"] for each in found[1:]]
    assert world.command("drop", "--all", "--table", "public.note", "--yes").status == 0
    assert [each["id"] for each in world.letters()] == [found[1]["id"]]
    assert world.command("drop", "--all", "--yes").status == 0
    assert world.letters() == []
    assert world.command("drop", "--all", "--yes").stdout == "0 dropped\n"
    assert world.command("retry", "--all").stdout == "0 done, 0 left\n"


def test_where_nothing_was_ever_there_the_list_is_empty(world: World, tmp_path: Any) -> None:
    (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")
    assert world.letters() == []
    assert world.command("list").stdout.startswith("0 dead letters in ")
    # Nothing was made by looking.
    if isinstance(world.server, Kafka):
        assert f"{world.prefix}dead-letter" not in world.server.topics()
    else:
        with world.server.connect() as connection, pytest.raises(pika.exceptions.ChannelClosedByBroker):
            connection.channel().queue_declare(f"{world.prefix}dead-letter", passive=True)


def test_a_table_that_was_gone_and_is_back_is_tried_for_all_who_subscribe_now(
    world: World, streamed: Callable[..., Any]
) -> None:
    database = world.database
    database.execute(NOTE)
    database.execute("create policy mine on note to authenticated using (owner = auth.jwt() ->> 'sub')")
    database.execute("grant select on note to authenticated")
    database.subscribe("note", role="authenticated", sub=ALICE)
    streamed(world, f"insert into note values (1, '{ALICE}', 'x'); alter table note rename to away")
    (letter,) = world.letters()
    assert "dropped or renamed" in letter["reason"]

    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    assert "nothing sent: the table was dropped or renamed" in done.stdout
    assert world.letters() == [letter]

    database.execute("alter table away rename to note")
    other, mine = (database.subscribe("note", role="authenticated", sub=sub) for sub in (BOB, ALICE))
    assert world.command("retry", "--all").status == 0
    (event,) = world.events()
    assert mine in audience(event[1])
    assert other not in audience(event[1])
    assert len(audience(event[1])) == 2
    assert world.letters() == []


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_a_table_that_has_taken_the_name_of_one_that_was_gone_is_not_taken_for_it(
    kafka_world: World, streamed: Callable[..., Any], plugin: str
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute("create table note (id int primary key, body text)")
    first = database.subscribe("note")
    if plugin == "pgoutput":
        database.execute("create publication everything for all tables")
        world.settings["source"] |= {"plugin": plugin, "publication": "everything"}
    streamed(world, "insert into note values (1, 'secret'); alter table note rename to away")
    (letter,) = world.letters()
    assert "dropped or renamed" in letter["reason"]

    database.execute("create table note (id int primary key, body text)")
    database.subscribe("note")
    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    assert "nothing sent: the table was dropped or renamed" in done.stdout
    assert world.letters() == [letter]
    assert f"{world.prefix}public.note" not in world.server.topics() or world.events() == []  # type: ignore[union-attr]

    database.execute("drop table note; alter table away rename to note")
    assert world.command("retry", "--all").status == 0
    assert [audience(value) for _, value in world.events()] == [[first]]


def test_of_a_partition_that_was_gone_and_is_back_those_above_it_hear_too(
    kafka_world: World, streamed: Callable[..., Any]
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute("""
        create table note (id int primary key, owner text) partition by range (id);
        create table note_low partition of note for values from (0) to (10);
        grant select on note to anon;
        alter table note enable row level security;
        create policy by_level on note to anon using ((auth.jwt() ->> 'level')::int > 0);
    """)
    good = database.subscribe("note", role="anon", level="1")
    bad = database.subscribe("note", role="anon", level="bad")
    own = database.subscribe("note_low")
    streamed(world, "insert into note values (1, 'a')")  # so that it is known who hears of this name
    database.execute("begin; insert into note values (2, 'a'); alter table note_low rename to away; commit")
    database.wait_until_confirmed()
    first, second = world.letters()
    assert "policy" in first["reason"]
    assert (second["table"], second["undecided"]) == ("note_low", 0)
    assert world.command("drop", first["id"], "--yes").status == 0

    database.execute("alter table away rename to note_low")
    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    assert "2 events for 2 subscriptions, still undecided: 1: policy" in done.stdout
    database.execute("alter policy by_level on note to anon using (true)")
    assert world.command("retry", "--all").status == 0
    assert world.letters() == []

    def of(table: str) -> list[tuple[int, list[str]]]:
        values = [value for _, value in world.events(table)]
        return [(json.loads(value)["wal"]["record"]["id"], audience(value)) for value in values]

    assert sorted(of("note")) == sorted([(1, [good]), (2, [good]), (2, [bad])])
    assert of("note_low") == [(1, [own]), (2, [own])]


def test_two_who_retry_at_the_same_time_lose_nothing_and_leave_nothing(
    world: World, streamed: Callable[..., Any], tmp_path: Any
) -> None:
    database = world.database
    database.execute(NOTE)
    bad = database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note select n, 'a', 'x' from generate_series(1, 120) n")
    assert len(world.letters()) == 120
    database.execute("alter policy by_level on note to anon using (true)")
    line = [command.program(), "dead-letter", "retry", "--all", "--config", str(tmp_path / "retry.yaml")]
    both = [
        subprocess.Popen(line, env=command.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for each in both:
        told = each.communicate(timeout=120)
        assert each.returncode == 0, told
    assert world.letters() == []
    values = dict(world.events())
    assert sorted(json.loads(value)["wal"]["record"]["id"] for value in values.values()) == [*range(1, 121)]
    assert all(audience(value) == [bad] for value in values.values())


@pytest.mark.versions
def test_the_logins_of_roles_sql_are_enough(
    kafka_world: World, streamed: Callable[..., Any], logins: tuple[str, str]
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute(NOTE)
    for level in ("bad", "worse", "bad too", "none"):  # as many as are asked for by a join
        database.subscribe("note", role="anon", level=level)
    database.execute("create publication everything for table realtime.subscription, note")
    source, judge = logins
    world.settings["source"] |= {"connection": source, "plugin": "pgoutput", "publication": "everything"}
    world.settings |= {"rls": {"connection": judge}, "migrations": "check"}
    running = streamed(world, "insert into note values (1, 'a', 'x')")
    database.execute(MENDED)
    done = world.command("retry", "--all")
    assert (done.status, done.stderr) == (0, "")
    assert [len(audience(value)) for _, value in world.events()] == [3]
    assert running.stop() == Exit.OK


def test_a_table_of_the_same_name_is_not_taken_for_the_one_of_the_letter(
    world: World, streamed: Callable[..., Any]
) -> None:
    database = world.database
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    database.execute("alter table note rename to away; create table note (like away including all)")
    database.execute("alter policy by_level on away to anon using (true); grant select on note to anon")
    world.command("retry", "--all").refused(Exit.LETTERS_LEFT)
    database.execute("update realtime.subscription set entity = 'note'::regclass")  # it is another table all the same
    world.command("retry", "--all").refused(Exit.LETTERS_LEFT)
    assert len(world.letters()) == 1


def test_what_the_broker_refused_is_left_to_a_replay_and_each_event_keeps_its_letter(
    kafka_world: World, streamed: Callable[..., Any]
) -> None:
    world, database = kafka_world, kafka_world.database
    long = "ä" * 31
    database.execute(f'create schema "{long}"; create table "{long}"."{long}" (id int primary key)')
    database.execute(f'grant usage on schema "{long}" to anon; grant select on "{long}"."{long}" to anon')
    database.subscribe(f'"{long}"."{long}"')
    database.subscribe(f'"{long}"."{long}"', role="anon")
    streamed(world, f'insert into "{long}"."{long}" values (1)')
    found = world.letters()
    assert len({each["id"] for each in found}) == len(found) == 2
    assert not any(each["can_be_retried"] for each in found)
    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    lsn = found[0]["commit_lsn"]
    assert f"walrus-bridge replay --from-lsn {lsn} --to-lsn {lsn} --table '{long}.{long}'" in done.stdout
    assert world.letters() == found


def test_an_event_that_the_broker_refuses_leaves_its_letter_as_it_was(
    rabbitmq: RabbitMQ, database: Database, prefix: str, run: Any, streamed: Callable[..., Any], tmp_path: Any
) -> None:
    world = World(rabbitmq, database, prefix, run)
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    before = world.letters()
    database.execute("alter policy by_level on note to anon using (true)")
    world.settings["sink"]["rabbitmq"]["routing_key"] = "x" * 250 + "{schema}.{table}.{type}"
    (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")
    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    assert "nothing sent: the broker refuses its event: the routing key" in done.stdout
    assert world.letters() == before


def test_a_quorum_queue_with_a_delivery_limit_loses_no_letter_by_being_looked_at(
    rabbitmq: RabbitMQ, database: Database, prefix: str, run: Any, streamed: Callable[..., Any]
) -> None:
    world = World(rabbitmq, database, prefix, run)
    with rabbitmq.connect() as connection:
        limited = {"x-queue-type": "quorum", "x-delivery-limit": 2}
        connection.channel().queue_declare(f"{prefix}dead-letter", durable=True, arguments=limited)
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')", "insert into note values (2, 'a', 'x')")
    before = wait_until(world.letters, "the letters")
    for _ in range(6):
        assert world.letters() == before
    assert len(before) == 2


def test_messages_that_are_no_letters_are_left_alone(
    world: World, streamed: Callable[..., Any], run: Callable[..., command.Done], tmp_path: Any
) -> None:
    database = world.database
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    assert count_letters(config_file.load(tmp_path / "retry.yaml", {})) == 1
    status = json.loads(run("status", "--config", "retry.yaml", "--json").stdout)
    assert status["letters_kept"] == 1
    assert any(note.startswith("1 dead letter waits") for note in status["notes"])
    for number, value in enumerate((b"no JSON", b'{"dead_letter": {}}', b"\xff")):
        world.put_letter(value, str(number))
    listed = world.command("list")
    assert listed.stderr.startswith("3 messages in ")
    assert world.command("drop", "--all", "--yes").status == 0
    assert world.command("list").stderr == listed.stderr


def test_letters_of_another_server_or_database_or_a_table_that_is_left_out_are_left(
    kafka_world: World, streamed: Callable[..., Any], tmp_path: Any
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a', 'x')")
    (letter,) = world.letters()
    value = world.command("show", "--json", letter["id"]).stdout.strip()
    system = letter["id"].partition("-")[0]
    elsewhere = letter["id"].replace(system, "7")
    world.put_letter(value.replace(letter["id"], elsewhere).encode(), elsewhere)
    foreign = letter["id"].replace("public", "publi_")
    world.put_letter(value.replace(letter["id"], foreign).replace(f'"{database.name}"', '"another"').encode(), foreign)
    database.execute("alter policy by_level on note to anon using (true)")

    world.settings["source"]["tables"] = {"exclude": ["public.note"]}
    (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")
    assert "its table is not streamed: source.tables leaves out public.note" in world.command("retry", "--all").stdout
    assert len(world.letters()) == 3
    del world.settings["source"]["tables"]
    (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")

    done = world.command("retry", "--all")
    done.refused(Exit.LETTERS_LEFT)
    assert "of another server (system identifier 7," in done.stdout
    assert "of another database (another," in done.stdout
    assert "1 done, 2 left" in done.stdout
    assert len(world.letters()) == 2


def test_a_partition_s_change_is_tried_again_for_the_table_above_it(world: World, streamed: Callable[..., Any]) -> None:
    database = world.database
    world.with_tables("note", "note_low")
    database.execute("""
        create table note (id int primary key, owner text) partition by range (id);
        create table note_low partition of note for values from (0) to (10);
        grant select on note, note_low to anon;
        alter table note enable row level security;
        create policy by_level on note to anon using ((auth.jwt() ->> 'level')::int > 0);
    """)
    above = database.subscribe("note", role="anon", level="bad")
    below = database.subscribe("note_low", role="anon", level="bad")
    streamed(world, "insert into note values (1, 'a')")
    (letter,) = world.letters()
    assert letter["table"] == "note"
    assert [audience(value) for _, value in world.events("note_low")] == [[below]]
    database.execute("alter policy by_level on note to anon using (true); alter table note detach partition note_low")

    assert world.command("retry", "--all").status == 0
    ((event_id, value),) = world.events("note")
    assert event_id.startswith(f"{letter['id']}/anon/retry-")
    assert (audience(value), json.loads(value)["wal"]["table"]) == ([above], "note")
    assert world.letters() == []


def test_a_retry_beside_a_bridge_with_transactions_does_not_fence_it_off(
    kafka_world: World, streamed: Callable[..., Any]
) -> None:
    world, database = kafka_world, kafka_world.database
    world.settings["delivery"] = "exactly_once"
    database.execute(NOTE)
    database.subscribe("note", role="anon", level="bad")
    running = streamed(world, "insert into note values (1, 'a', 'x')")
    database.execute("alter policy by_level on note to anon using (true)")
    assert world.command("retry", "--all").status == 0
    database.execute("insert into note values (2, 'b', 'x')")
    database.wait_until_confirmed()
    assert sorted(json.loads(value)["wal"]["record"]["id"] for _, value in world.events()) == [1, 2]
    assert world.letters() == []
    assert "given up" not in running.stderr
    assert running.stop() == Exit.OK


def test_halves_of_a_letter_too_large_are_both_tried_again(kafka_world: World, streamed: Callable[..., Any]) -> None:
    world, database = kafka_world, kafka_world.database
    world.settings["sink"]["kafka"]["client"]["message.max.bytes"] = 5_000
    database.execute(NOTE)
    ids = [database.subscribe("note", role="anon", level=f"bad {number}") for number in range(60)]
    streamed(world, "insert into note values (1, 'a', 'x')")
    found = world.letters()
    assert len(found) > 2
    assert sum(each["undecided"] for each in found) == 60
    assert all(each["can_be_retried"] for each in found)
    database.execute("alter policy by_level on note to anon using (true)")
    assert world.command("retry", "--all").status == 0
    assert sorted(one for _, value in world.events() for one in audience(value)) == sorted(ids)
    assert len({each[0] for each in world.events()}) == len(world.events())
    assert world.letters() == []


def test_the_topic_of_dead_letters_is_compacted_and_check_warns_of_one_that_is_not(
    kafka_world: World, streamed: Callable[..., Any], run: Callable[..., command.Done]
) -> None:
    world, prefix, kafka = kafka_world, kafka_world.prefix, kafka_world.server
    assert isinstance(kafka, Kafka)
    world.database.execute(NOTE)
    streamed(world).stop()
    assert policy_of(kafka, f"{prefix}dead-letter") == "compact"
    assert "cleanup.policy" not in run("check", "--config", "retry.yaml").stdout

    admin = kafka.admin
    for future in admin.delete_topics([f"{prefix}dead-letter"]).values():
        future.result()
    wait_until(lambda: f"{prefix}dead-letter" not in kafka.topics(), "the topic's end")
    admin.create_topics([NewTopic(f"{prefix}dead-letter", 1, 1)])[f"{prefix}dead-letter"].result()
    told = run("check", "--config", "retry.yaml").stdout
    assert f"warning  sink.kafka                 topic {prefix}dead-letter has cleanup.policy=delete" in told
    assert "--add-config cleanup.policy=compact" in told


def policy_of(kafka: Kafka, topic: str) -> str:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = kafka.admin
    found = admin.describe_configs([resource])[resource].result()
    return str(found["cleanup.policy"].value)


def test_with_stdout_nothing_keeps_them(run: Callable[..., command.Done], database: Database) -> None:
    for arguments in (["list"], ["retry", "--all"], ["drop", "--all", "--yes"], ["show", "x"]):
        run("dead-letter", *arguments, "--connection", database.dsn).refused(Exit.CONFIG, "stderr", "--config")


def test_a_broker_that_is_away_or_refuses_is_one_clear_error(
    world: World, run: Callable[..., command.Done], tmp_path: Any
) -> None:
    if isinstance(world.server, Kafka):
        world.settings["sink"]["kafka"]["client"]["bootstrap.servers"] = "127.0.0.1:1"
        status = Exit.SINK_UNREACHABLE
    else:
        world.settings["sink"]["rabbitmq"]["url"] = world.server.url.replace("guest:guest", "guest:wrong")
        status = Exit.SINK_REFUSED
    (tmp_path / "retry.yaml").write_text(yaml.safe_dump(world.settings), encoding="utf-8")
    for arguments in (["list"], ["drop", "--all", "--yes"], ["retry", "--all"]):
        world.command(*arguments).refused(status, "What to do")


def test_a_rabbitmq_that_says_nothing_is_one_clear_error(run: Callable[..., command.Done], tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        sink = {"url": f"amqp://guest:guest@{place}/%2F?stack_timeout=1"}
        (tmp_path / "bridge.yaml").write_text(yaml.safe_dump({"sink": {"rabbitmq": sink}}), encoding="utf-8")

        for arguments in (["dead-letter", "list"], ["tail", "public.note", "--accept-unparked"]):
            done = run(*arguments, "--config", "bridge.yaml")
            done.refused(Exit.SINK_UNREACHABLE, place, "it says nothing for 1 s", "What to do")


def test_a_replay_for_one_subscription_leaves_the_letter_for_others(
    kafka_world: World, streamed: Callable[..., Any], run: Callable[..., command.Done]
) -> None:
    world, database = kafka_world, kafka_world.database
    database.execute(NOTE)
    database.execute("grant select on note to authenticated")
    database.execute("create policy all_of_it on note to authenticated using (true)")
    waits = database.subscribe("note", role="anon", level="bad")
    asks = database.subscribe("note", role="authenticated", level="bad")
    streamed(world)
    keep_from_here(database)
    database.execute("insert into note values (1, 'a', 'x')")
    database.wait_until_confirmed()
    (letter,) = world.letters()
    database.execute("""
        alter policy by_level on note to anon using (true);
        alter policy all_of_it on note to authenticated using ((auth.jwt() ->> 'level')::int > 0);
    """)
    lsn = letter["commit_lsn"]
    done = run("replay", "--from-lsn", lsn, "--subscription", asks, "--config", "retry.yaml")
    assert done.status == 0, done.stderr

    assert [each["undecided"] for each in world.letters()] == [1, 1]
    database.execute("alter policy all_of_it on note to authenticated using (true)")
    assert world.command("retry", "--all").status == 0
    retried = [audience(value) for event_id, value in world.events() if "/retry-" in event_id]
    assert sorted(retried) == sorted([[waits], [asks]])
    assert world.letters() == []
