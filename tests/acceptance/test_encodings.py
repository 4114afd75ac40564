"""Databases of another encoding than UTF8: events are right, or the bridge says what to do."""

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bridge import migrations
from bridge.cluster import Cluster
from bridge.errors import Exit
from tests.servers.postgres import Database

_numbers = itertools.count()


@pytest.fixture
def encoded(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Database]:
    name = f"encoded_{next(_numbers)}"
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {name} template template0 encoding '{request.param}' locale 'C'")
    migrations.deploy(cluster.dsn(name))
    database = Database(cluster, name)
    database.execute("set client_encoding to 'UTF8'")
    yield database
    database.remove()


def config(database: Database, plugin: str) -> dict[str, Any]:
    source = {"connection": database.dsn, "slot": database.slot, "plugin": plugin}
    if plugin == "pgoutput":
        database.execute("create publication everything for all tables")
        source["publication"] = "everything"
    return {"source": source, "sink": {"stdout": {}}, "http": {"listen": None}}


@pytest.mark.parametrize("encoded", ["LATIN1", "EUC_JP"], indirect=True)
def test_pgoutput_s_text_arrives_whatever_the_encoding(encoded: Database, bridge: Any) -> None:
    encoded.execute('create table "grün" (id text primary key, "größe" text)')
    encoded.subscribe('"grün"')
    running = bridge(config=config(encoded, "pgoutput"))
    running.wait_until_streaming()

    encoded.execute("""insert into "grün" values ('ä', 'ö')""")

    (event,) = running.wait_for_events(1)
    assert (event["wal"]["table"], event["wal"]["record"]) == ("grün", {"id": "ä", "größe": "ö"})
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
def test_wal2json_is_refused_where_it_does_not_write_utf8(encoded: Database, bridge: Any) -> None:
    running = bridge(config=config(encoded, "wal2json"))
    assert running.wait() == Exit.SOURCE_REFUSED
    assert "the database's encoding is LATIN1" in running.stderr
    assert encoded.confirmed() is None  # no slot has been made


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_bytes_that_are_no_text_stop_the_bridge_with_the_position_unmoved(
    encoded: Database, plugin: str, bridge: Any
) -> None:
    encoded.execute("create table note (id int primary key, body text)")
    encoded.subscribe("note")
    settings = config(encoded, plugin)
    running = bridge(config=settings)
    running.wait_until_streaming()
    encoded.execute("insert into note values (1, 'ä')")
    encoded.wait_until_confirmed()
    position = encoded.commit(r"insert into note values (2, e'\xff')")

    # The server finds it for pgoutput, the bridge for wal2json.
    assert running.wait() == (Exit.SOURCE_REFUSED if plugin == "pgoutput" else Exit.UNEXPECTED)
    assert "UTF" in running.stderr.splitlines()[-1]
    assert len(running.events) == 1
    assert not encoded.is_past(position)
    if plugin == "wal2json":
        assert "source.tables.exclude" in running.stderr
        settings["source"]["tables"] = {"exclude": ["public.note"]}
        bridge(config=settings).wait_until_streaming()
        encoded.wait_until_confirmed()
