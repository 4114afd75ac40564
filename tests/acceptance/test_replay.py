"""`walrus-bridge replay` beside the running bridge, on real servers."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.errors import Exit
from tests.acceptance.replaying import Arrived, Broker, config, keep_from_here, slots
from tests.command import Done
from tests.servers.postgres import Database

PLUGINS = ["wal2json", "pgoutput"]


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker(request: pytest.FixtureRequest, prefix: str) -> Broker:
    return Broker(request.getfixturevalue(request.param), prefix)


def written(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "replay.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


def replayed(arrived: list[Arrived]) -> list[Arrived]:
    return [each for each in arrived if each.replayed]


def first(arrived: list[Arrived]) -> list[Arrived]:
    return [each for each in arrived if not each.replayed]


def stands(database: Database) -> None:
    """The bridge has nothing left to confirm."""
    database.wait_until_confirmed()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_stretch_arrives_again_as_it_was_the_first_time(
    database: Database, broker: Broker, bridge: Any, walrus_bridge: Any, tmp_path: Path, plugin: str
) -> None:
    # Given a bridge that has delivered transactions of several rows, an update and a delete
    database.execute("create table note (id int primary key, body text)")
    database.subscribe("note")
    settings = config(database, broker.sink, plugin)
    running = bridge(config=settings)
    running.wait_until_streaming()
    keep_from_here(database)
    for number in range(5):
        database.execute(
            "insert into note select g, 'Foo' from generate_series(%s::int, %s) g", (number * 10, number * 10 + 9)
        )
    database.execute("update note set body = 'Bar' where id = 11")
    database.execute("delete from note where id = 12")
    stands(database)
    before = broker.contents()
    assert len(before) == 52
    lsns = sorted({each.id.split("/")[1]: each.headers["commit_lsn"] for each in before}.items())
    begin, end = lsns[1][1], lsns[5][1]

    # When the second to the sixth transaction are replayed, beside it
    done: Done = walrus_bridge("replay", "--config", written(tmp_path, settings), "--from-lsn", begin, "--to-lsn", end)

    # Then they are there again, marked
    assert done.status == Exit.OK, done.stderr
    assert "replayed 41 events" in done.stderr
    again = replayed(broker.contents())
    wanted = [each for each in before if lsns[1][0] <= each.id.split("/")[1] <= lsns[5][0]]
    assert sorted(each.id for each in again) == sorted(each.id for each in wanted)
    assert {each.id: each.unmarked for each in again} == {each.id: each for each in wanted}
    assert slots(database).keys() == {database.slot, f"{database.slot}_replay"}
    assert running.stop() == Exit.OK
