"""`walrus-bridge replay` beside the running bridge, on real servers."""

import json
import math
import re
import shlex
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.errors import Exit
from bridge.lsn import parse_lsn
from bridge.slot import second_slot
from tests.acceptance.replaying import Arrived, Broker, config, keep_from_here, positions, slots
from tests.command import Done, environment, program
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

PLUGINS = ["wal2json", "pgoutput"]
ROWS = "insert into note select g, 'Foo' from generate_series(%s::int, %s) g"


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest, prefix: str) -> Broker:
    return Broker(request.getfixturevalue(request.param), prefix)


@pytest.fixture
def on_kafka(kafka: Kafka, prefix: str) -> Broker:
    return Broker(kafka, prefix)


@pytest.fixture
def note(database: Database) -> Database:
    database.execute("create table note (id int primary key, body text)")
    return database


def written(folder: Path, settings: dict[str, Any], **sections: Any) -> str:
    """A configuration for the replay."""
    path = folder / "replay.yaml"
    path.write_text(yaml.safe_dump(settings | sections), encoding="utf-8")
    return str(path)


def replayed(arrived: list[Arrived]) -> list[Arrived]:
    return [each for each in arrived if each.replayed]


def rows(arrived: list[Arrived]) -> list[int]:
    return sorted(each.row for each in arrived)


def commits(arrived: list[Arrived]) -> list[str]:
    """Commit LSNs as PostgreSQL writes them, in their order."""
    return list(dict.fromkeys(each.headers["commit_lsn"] for each in sorted(arrived, key=lambda each: each.id)))


@pytest.mark.versions
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_stretch_arrives_again_as_it_was_the_first_time(
    note: Database, broker: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path, plugin: str
) -> None:
    # Given a bridge that has delivered transactions of several rows, an update and a delete
    note.subscribe("note")
    settings = config(note, broker.sink, plugin)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    for number in range(5):
        note.execute(ROWS, (number * 10, number * 10 + 9))
    note.execute("update note set body = 'Bar' where id = 11")
    note.execute("delete from note where id = 12")
    note.wait_until_confirmed()
    before = broker.contents()
    assert len(before) == 52
    _, begin, *_, end, _ = commits(before)

    # When the second to the sixth transaction are replayed, beside it
    done: Done = walrus_bridge("replay", "--config", written(tmp_path, settings), "--from-lsn", begin, "--to-lsn", end)

    # Then they are there again, marked, and nothing else
    assert done.status == Exit.OK, done.stderr
    assert "replayed 41 events" in done.stderr
    wanted = [each for each in before if parse_lsn(begin) <= parse_lsn(each.headers["commit_lsn"]) <= parse_lsn(end)]
    again = replayed(broker.contents())
    assert len(again) == len(wanted) == 41
    assert {each.id: each.unmarked for each in again} == {each.id: each for each in wanted}
    assert slots(note).keys() == {note.slot, second_slot(note.slot)}
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_beside_a_bridge_under_load_no_position_moves(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path, delivery: str
) -> None:
    # Given a bridge with a window, that has delivered something
    note.subscribe("note")
    settings = config(note, on_kafka.sink, delivery=delivery, source={"replay_window": "1h"})
    running = bridge(config=settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    note.execute(ROWS, (1, 5000))
    note.wait_until_confirmed()
    before = on_kafka.contents()
    (begin,) = commits(before)
    window = slots(note)[second_slot(note.slot)]

    # When it is replayed while others write
    with subprocess.Popen(
        [program(), "replay", "--config", written(tmp_path, settings), "--from-lsn", begin, "--to-lsn", begin],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as replay:
        number = 5001
        while replay.poll() is None:
            note.execute(ROWS, (number, number + 9))
            number += 10
            time.sleep(0.01)
        assert replay.stderr is not None
        said = replay.stderr.read()

    # Then all came, and the bridge has delivered what was written meanwhile: once, unmarked
    assert replay.returncode == Exit.OK, said
    note.wait_until_confirmed()
    arrived = on_kafka.contents()
    assert {each.id: each.unmarked for each in replayed(arrived)} == {each.id: each for each in before}
    assert rows([each for each in arrived if not each.replayed]) == list(range(1, number))
    assert number > 5011
    # No slot is left, and none has moved but the bridge's own, by the bridge.
    assert slots(note).keys() == {note.slot, second_slot(note.slot)}
    assert slots(note)[second_slot(note.slot)] == window
    assert [name for name, *_ in positions(note)] == [note.slot]
    assert running.stop() == Exit.OK
    assert "gap" not in running.stderr


def test_ctrl_c_leaves_nothing_and_says_how_to_go_on(
    note: Database, on_kafka: Broker, bridge: Any, tmp_path: Path
) -> None:
    # Given many transactions, and a replay that is slow
    note.subscribe("note")
    settings = config(note, on_kafka.sink)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    for number in range(40):
        note.execute(ROWS, (number * 10, number * 10 + 9))
    note.wait_until_confirmed()
    assert running.stop() == Exit.OK
    before = on_kafka.contents()
    begin, *_, end = commits(before)
    slow = written(tmp_path, settings, limits={"events_per_second": 5})

    # When it is interrupted in the middle
    with subprocess.Popen(
        [program(), "replay", "--config", slow, "--from-lsn", begin, "--to-lsn", end],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as replay:
        wait_until(lambda: len(replayed(on_kafka.contents())) > 3, "some are replayed")
        replay.send_signal(signal.SIGINT)
        assert replay.stderr is not None
        said = replay.stderr.read()

    # Then what was sent is acknowledged, no slot is left, and the message has the command for the rest
    assert replay.returncode == Exit.INCOMPLETE, said
    assert slots(note).keys() == {note.slot, second_slot(note.slot)}
    half = len(replayed(on_kafka.contents()))
    assert 3 < half < 400
    command = re.search(r"go on with: (walrus-bridge .*)", said, re.IGNORECASE)
    assert command, said
    words = shlex.split(command[1])
    assert words[:2] == ["walrus-bridge", "replay"]
    assert words[words.index("--to-lsn") + 1] == end

    # And it replays them, without the limit: none missing, at most one transaction's twice
    assert written(tmp_path, settings) == slow
    done = subprocess.run([program(), *words[1:]], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == Exit.OK, done.stderr
    again = replayed(on_kafka.contents())
    assert {each.id for each in again} == {each.id for each in before}
    assert len(again) - 400 < 10


def test_a_lost_connection_says_how_to_go_on(note: Database, bridge: Any, tmp_path: Path, walrus_bridge: Any) -> None:
    note.subscribe("note")
    settings = config(note, {"stdout": {}})
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    for number in range(300):
        note.execute(ROWS, (number, number))
    note.wait_until_confirmed()
    assert running.stop() == Exit.OK
    slow = written(tmp_path, settings, limits={"events_per_second": 5})

    replay = bridge(arguments=("replay", "--config", slow, "--from-lsn", slots(note)[second_slot(note.slot)][1]))
    replay.wait_for_events(3)
    note.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    assert replay.wait() == Exit.SOURCE_UNREACHABLE
    command = re.search(r"go on with: walrus-bridge (.*)", replay.stderr)
    assert command, replay.stderr
    assert written(tmp_path, settings) == slow
    rest: Done = walrus_bridge(*shlex.split(command[1]))
    assert rest.status == Exit.OK, rest.stderr
    ids = [each["wal"]["record"]["id"] for each in [*replay.events, *map(json.loads, rest.stdout.splitlines())]]
    assert sorted(set(ids)) == list(range(300))
    assert len(ids) < 310
    assert slots(note).keys() == {note.slot, second_slot(note.slot)}


def test_a_killed_replay_leaves_nothing(note: Database, on_kafka: Broker, bridge: Any, tmp_path: Path) -> None:
    note.subscribe("note")
    settings = config(note, on_kafka.sink)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    note.execute(ROWS, (1, 400))
    note.wait_until_confirmed()
    (begin,) = commits(on_kafka.contents())
    slow = written(tmp_path, settings, limits={"events_per_second": 5})

    with subprocess.Popen(
        [program(), "replay", "--config", slow, "--from-lsn", begin], env=environment(), stderr=subprocess.DEVNULL
    ) as replay:
        wait_until(lambda: len(slots(note)) == 3, "its copy of the slot")
        wait_until(lambda: replayed(on_kafka.contents()), "some are replayed")
        replay.kill()

    wait_until(lambda: slots(note).keys() == {note.slot, second_slot(note.slot)}, "the copy gone")
    note.execute(ROWS, (401, 401))
    note.wait_until_confirmed()
    assert running.stop() == Exit.OK


@pytest.mark.versions
def test_what_is_not_kept_says_what_is(note: Database, bridge: Any, walrus_bridge: Any, tmp_path: Path) -> None:
    note.subscribe("note")
    settings = config(note, {"stdout": {}})
    running = bridge(config=settings)
    running.wait_until_streaming()
    note.execute(ROWS, (1, 1))
    note.wait_until_confirmed()
    (lsn,) = note.execute("select pg_current_wal_insert_lsn()::text")[0]
    assert running.stop() == Exit.OK
    keep_from_here(note)
    note.execute(ROWS, (2, 2))
    path = written(tmp_path, settings)

    for since in ("--from-lsn", "0/1000000"), ("--since", "300d"):
        done: Done = walrus_bridge("replay", "--config", path, *since)
        done.refused(Exit.NOT_KEPT, "cannot be replayed", "committed 20", "docs/runbooks/replay.md", "replay_window")
        found = re.search(r"the oldest is the transaction at (\S+),", done.stderr)
        assert found, done.stderr
        # And that is so.
        done = walrus_bridge("replay", "--config", path, "--from-lsn", found[1])
        assert done.status == Exit.OK, done.stderr
        assert '"record":{"id":2,' in done.stdout

    done = walrus_bridge("lsn", "--config", path, "--at", "2020-01-01T00:00Z")
    done.refused(Exit.NOT_KEPT, "since 2020-01-01T00:00:00+00:00 cannot be replayed")
    assert parse_lsn(lsn) < parse_lsn(found[1])


def test_a_dry_run_counts_and_shows_and_sends_nothing(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path
) -> None:
    note.execute("create table other (id int primary key)")
    note.subscribe("note")
    note.subscribe("other")
    settings = config(note, on_kafka.sink)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    note.execute(ROWS, (1, 20))
    note.execute("insert into other select generate_series(1, 3)")
    note.wait_until_confirmed()
    before = on_kafka.contents()

    done: Done = walrus_bridge("replay", "--config", written(tmp_path, settings), "--since", "1h", "--dry-run")
    # The first transaction that is kept may be later than an hour ago: then it says so.
    done.refused(Exit.NOT_KEPT)
    done = walrus_bridge(
        "replay", "--config", written(tmp_path, settings), "--from-lsn", commits(before)[0], "--dry-run"
    )

    assert done.status == Exit.OK, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "23 events would be sent"
    assert "  20  public.note" in lines
    assert "   3  public.other" in lines
    assert min(each.id for each in before) in done.stdout
    assert '"record":{"id":1,"body":"Foo"}' in done.stdout
    assert on_kafka.contents() == before
    assert running.stop() == Exit.OK


ALMOST_ALL = 7.0
"""Seconds, of the eight between two transactions."""


def age(database: Database, moment: datetime) -> float:
    """In seconds, by the server's clock."""
    (seconds,) = database.execute("select extract(epoch from clock_timestamp() - %s)::float8", (moment,))[0]
    return float(seconds)


def test_since_replays_what_was_committed_since(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path
) -> None:
    note.subscribe("note")
    settings = config(note, on_kafka.sink, source={"replay_window": "1h"})
    running = bridge(config=settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    note.execute(ROWS, (1, 3))
    note.wait_until_confirmed()
    (at,) = note.execute("select to_json(clock_timestamp()) #>> '{}'")[0]
    note.execute("select pg_sleep(8)")
    (later,) = note.execute("select clock_timestamp()")[0]
    note.execute(ROWS, (4, 5))
    note.wait_until_confirmed()
    path = written(tmp_path, settings)
    last = commits(on_kafka.contents())[-1]

    found: Done = walrus_bridge("lsn", "--config", path, "--at", at)
    assert found.status == Exit.OK, found.stderr
    assert parse_lsn(found.stdout.strip()) <= parse_lsn(last)
    assert "committed 20" in found.stderr
    # It counts from when it asks, and must have got there before rows 4 and 5 are too old.
    asking, answered = 0.0, ALMOST_ALL
    while answered - asking >= ALMOST_ALL:
        known = on_kafka.contents()
        asking = age(note, later)
        done: Done = walrus_bridge("replay", "--config", path, "--since", f"{math.ceil(asking + ALMOST_ALL)}s")
        assert done.status == Exit.OK, done.stderr
        answered = age(note, later)

    again = on_kafka.contents()
    for each in known:
        again.remove(each)
    assert rows(replayed(again)) == [4, 5]
    # What is yet to come is nothing, and said so.
    note.execute("select pg_sleep(1)")
    none: Done = walrus_bridge("replay", "--config", path, "--since", "500ms")
    assert none.status == Exit.OK, none.stderr
    assert running.stop() == Exit.OK


def test_tables_and_subscriptions_narrow_it(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path
) -> None:
    # Given two tables, and one subscriber of three who gets some rows only
    note.execute('create table "od.d, T" (id int primary key)')
    note.subscribe("note")
    note.subscribe('"od.d, T"')
    some = note.subscribe("note")
    note.execute(
        "update realtime.subscription set filters = '{\"(id,gt,17)\"}' where subscription_id = %s::uuid", (some,)
    )
    settings = config(note, on_kafka.sink)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    note.execute(ROWS, (1, 20))
    note.execute('insert into "od.d, T" select generate_series(1, 3)')
    note.wait_until_confirmed()
    before = on_kafka.contents()
    path = written(tmp_path, settings)
    begin = ("--from-lsn", commits(before)[0])

    # When only what one subscriber gets is replayed
    done: Done = walrus_bridge("replay", "--config", path, *begin, "--subscription", some)

    # Then the events are whole: the same ids, for the same subscribers
    assert done.status == Exit.OK, done.stderr
    assert "replayed 3 events" in done.stderr
    again = replayed(on_kafka.contents())
    assert {each.id: each.unmarked for each in again} == {each.id: each for each in before if each.row > 17}
    assert all(len(each.value["subscription_ids"]) == 2 for each in again)

    # And a table of any name is replayed alone, and what nobody subscribes to is an error
    odd: Done = walrus_bridge("replay", "--config", path, *begin, "--table", r"public.od\.d, T")
    assert "replayed 3 events" in odd.stderr
    assert len(replayed(on_kafka.contents())) == 3
    walrus_bridge("replay", "--config", path, *begin, "--table", "public.gone").refused(
        Exit.SOURCE_REFUSED, "there is no table public.gone"
    )
    walrus_bridge("replay", "--config", path, *begin, "--table", "realtime.subscription").refused(
        Exit.SOURCE_REFUSED, "nobody subscribes to realtime.subscription"
    )
    stranger = "11111111-1111-1111-1111-111111111111"
    walrus_bridge("replay", "--config", path, *begin, "--subscription", stranger).refused(
        Exit.SOURCE_REFUSED, f"subscription {stranger} subscribes to nothing"
    )
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("plugin", PLUGINS)
def test_who_gets_it_is_decided_as_of_now(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path, plugin: str
) -> None:
    # Given subscribers who come and go within the stretch, and one who comes after it
    if not note.execute("select 1 from pg_roles where rolname = 'late'"):
        note.execute("create role late nologin")
    note.execute("grant select on note to authenticated, late")
    stays = note.subscribe("note", role="authenticated")
    goes = note.subscribe("note", role="authenticated", sub="goes")
    settings = config(note, on_kafka.sink, plugin)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    note.execute(ROWS, (1, 1))
    passes = note.subscribe("note", role="authenticated", sub="passes")
    note.execute(ROWS, (2, 2))
    note.execute("delete from realtime.subscription where subscription_id = any (%s::uuid[])", ([goes, passes],))
    note.execute(ROWS, (3, 3))
    note.wait_until_confirmed()
    before = on_kafka.contents()
    assert [sorted(each.value["subscription_ids"]) for each in sorted(before, key=lambda each: each.row)] == [
        sorted([stays, goes]),
        sorted([stays, goes, passes]),
        [stays],
    ]
    # Row security came later too, and hides the second row.
    note.execute("alter table note enable row level security; create policy two on note using (id <> 2)")
    comes = note.subscribe("note", role="authenticated", sub="comes")
    other = note.subscribe("note", role="late")

    done: Done = walrus_bridge("replay", "--config", written(tmp_path, settings), "--from-lsn", commits(before)[0])

    # Then those who are there now get what they may see now, whatever the stretch did to the subscriptions
    assert done.status == Exit.OK, done.stderr
    found = {each.id.rpartition("/")[2] + str(each.row): each for each in replayed(on_kafka.contents())}
    assert {name: sorted(each.value["subscription_ids"]) for name, each in found.items()} == {
        "authenticated1": sorted([stays, comes]),
        "authenticated3": sorted([stays, comes]),
        "late1": [other],
        "late3": [other],
    }
    assert {each.id for each in before} > {found["authenticated1"].id, found["authenticated3"].id}
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_table_that_has_taken_the_name_gives_none_of_the_other_ones_rows(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path, plugin: str
) -> None:
    # Given rows that nobody may see, in a table that had the name of one that everybody may see
    note.execute("alter table note enable row level security; grant select on note to authenticated")
    note.subscribe("note", role="authenticated")
    settings = config(note, on_kafka.sink, plugin)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    (begin,) = note.execute("select pg_current_wal_flush_lsn()::text")[0]
    note.execute(ROWS, (1, 1))
    note.wait_until_confirmed()
    note.execute("create table other (id int primary key, body text); grant select on other to authenticated")
    note.execute("alter table note rename to away; alter table other rename to note")
    note.subscribe("note", role="authenticated")
    note.execute(ROWS, (2, 2))
    note.wait_until_confirmed()

    done: Done = walrus_bridge(
        "replay", "--config", written(tmp_path, settings), "--from-lsn", begin, "--table", "public.note"
    )

    # Then the other table's change is a dead letter, also when it is tried again
    assert done.status == Exit.OK, done.stderr
    assert rows(replayed(on_kafka.contents())) == [2]
    assert "replayed 2 events" in done.stderr
    again: Done = walrus_bridge("dead-letter", "retry", "--all", "--config", written(tmp_path, settings))
    assert again.status == Exit.LETTERS_LEFT, again.stderr
    assert rows(on_kafka.contents()) == [2, 2]
    assert running.stop() == Exit.OK


def test_who_unsubscribes_while_it_runs_gets_no_more(note: Database, bridge: Any, tmp_path: Path) -> None:
    stays, goes = note.subscribe("note"), note.subscribe("note", sub="goes")
    settings = config(note, {"stdout": {}})
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    for number in range(3000):
        note.execute(ROWS, (number, number))
    note.wait_until_confirmed()
    assert running.stop() == Exit.OK
    slow = written(tmp_path, settings, limits={"events_per_second": 60})

    replay = bridge(arguments=("replay", "--config", slow, "--from-lsn", slots(note)[second_slot(note.slot)][1]))
    assert set(replay.wait_for_events(1)[0]["subscription_ids"]) == {stays, goes}
    note.execute("delete from realtime.subscription where subscription_id = %s::uuid", (goes,))

    after = len(replay.events)
    replay.wait_for(lambda: replay.events[-1]["subscription_ids"] == [stays], "no event for the other")

    both = [each for each in replay.events[after:] if len(each["subscription_ids"]) == 2]
    assert len(both) < 60 * 8
    assert replay.stop() == Exit.INCOMPLETE


@pytest.mark.versions
@pytest.mark.parametrize("plugin", PLUGINS)
def test_stdout_gets_the_same_lines(
    note: Database, bridge: Any, walrus_bridge: Any, tmp_path: Path, plugin: str
) -> None:
    note.subscribe("note")
    settings = config(note, {"stdout": {}}, plugin, source={"replay_window": "1GiB"})
    running = bridge(config=settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    note.execute(ROWS, (1, 1000))
    note.execute("update note set id = id + 5000 where id < 10")
    note.execute("truncate note")
    running.wait_for_events(1009)
    path = written(tmp_path, settings)
    begin = slots(note)[second_slot(note.slot)][1]

    done: Done = walrus_bridge("replay", "--config", path, "--from-lsn", begin)

    assert done.status == Exit.OK, done.stderr
    assert [yaml.safe_load(line) for line in done.stdout.splitlines()[:20]] == running.events[:20]
    assert len(done.stdout.splitlines()) == 1009
    assert running.stop() == Exit.OK


def test_dead_letters_and_parts_are_marked_and_have_their_ids(
    note: Database, on_kafka: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path
) -> None:
    note.execute("""
        grant select on note to anon;
        alter table note enable row level security;
        create policy raising on note to anon using (1 / (id - 7) is not null);
    """)
    note.subscribe("note", role="anon")
    settings = config(note, on_kafka.sink)
    settings["sink"]["kafka"]["client"]["message.max.bytes"] = 20_000
    for _ in range(1000):
        note.subscribe("note")
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(note)
    note.execute(ROWS, (6, 8))
    note.wait_until_confirmed()
    before = on_kafka.contents()
    assert sum("part" in each.headers for each in before) >= 6

    done: Done = walrus_bridge("replay", "--config", written(tmp_path, settings), "--from-lsn", commits(before)[0])

    assert done.status == Exit.OK, done.stderr
    assert {each.id: each.unmarked for each in replayed(on_kafka.contents())} == {each.id: each for each in before}
    topic = f"{on_kafka.prefix}dead-letter"
    letters = [dict(message.headers() or []) for message in on_kafka.server.read(topic)]  # type: ignore[union-attr]
    assert [each.get("replayed") for each in letters] == [None, b"true"]
    assert letters[0]["id"] == letters[1]["id"]
    assert running.stop() == Exit.OK


def test_what_a_replay_cannot_mean(note: Database, walrus_bridge: Any, tmp_path: Path) -> None:
    note.execute("select pg_create_logical_replication_slot(%s, %s)", (note.slot, note.plugins[0]))
    path = written(tmp_path, config(note, {"stdout": {}}))
    (end,) = note.execute("select pg_current_wal_insert_lsn()::text")[0]

    def refused(*arguments: str) -> str:
        done: Done = walrus_bridge("replay", "--config", path, *arguments)
        assert done.status == Exit.USAGE, done.stderr
        return done.stderr

    assert "either --from-lsn or --since" in refused()
    assert "either --from-lsn or --since" in refused("--from-lsn", end, "--since", "1h")
    assert "not an LSN: '12'" in refused("--from-lsn", "12")
    assert "expected a duration" in refused("--since", "yesterday")
    assert "names no single table" in refused("--from-lsn", end, "--table", "public.*")
    assert "is before 1/0" in refused("--from-lsn", "1/0", "--to-lsn", "0/1")
    assert "not a valid UUID" in refused("--from-lsn", end, "--subscription", "me")
    done: Done = walrus_bridge("replay", "--config", path, "--from-lsn", end, "--to-lsn", "FFFF/0")
    done.refused(Exit.SOURCE_REFUSED, "FFFF/0 has not been written yet")
    done = walrus_bridge("replay", "--config", path, "--from-lsn", "FFFF/0")
    done.refused(Exit.SOURCE_REFUSED, "FFFF/0 has not been written yet")
    # Nothing committed since: nothing to do.
    done = walrus_bridge("replay", "--config", path, "--from-lsn", end)
    assert done.status == Exit.OK, done.stderr
    assert "replayed 0 events" in done.stderr


def test_the_lsn_of_an_event_needs_no_server(walrus_bridge: Any) -> None:
    event = "7409-1/00000001015E4E50/00000001015E4DD0/00000000/public.book/authenticated/part-0a1b2c3d"
    done: Done = walrus_bridge("lsn", "--of", event)
    assert (done.status, done.stdout) == (Exit.OK, "1/15E4E50\n")
    assert "1/15E4DD0" in done.stderr

    for wrong in ("", "book", event.lower()):
        assert walrus_bridge("lsn", "--of", wrong).status == Exit.USAGE
    assert "has no zone" in walrus_bridge("lsn", "--at", "2026-11-23T03:00").stderr
    assert "is no time" in walrus_bridge("lsn", "--at", "noon").stderr
    assert "either --at or --of" in walrus_bridge("lsn").stderr
