"""source.tables with the real wal2json: names that need escaping, and what always comes."""

import pytest

from bridge.change import Change
from bridge.lsn import parse_lsn
from bridge.sql import connect
from bridge.wal2json import Wal2JsonDecoder, start_options
from tests.servers.postgres import Database

NAMES = ["plain", "Upper", "with space", "with,comma", "with.dot", "back\\slash", 'quo"te', "quo'te", "st*ar", "ä"]


def escaped(name: str) -> str:
    return "".join("\\" + each if each in "\\.*" else each for each in name)


def streamed(database: Database, include: list[str], exclude: list[str]) -> set[tuple[str, str]]:
    """The tables whose changes wal2json gives."""
    flat = [text for option in start_options(include, exclude).items() for text in option]
    with connect(database.dsn, {"search_path": ""}) as connection:
        rows = connection.execute(
            "select lsn::text, data from pg_logical_slot_peek_changes(%s, null, null, variadic %s)",
            (database.slot, flat),
        ).fetchall()
    decoder = Wal2JsonDecoder()
    messages = [message for lsn, data in rows for message in decoder.decode(parse_lsn(lsn), data.encode())]
    return {(each.schema, each.table) for each in messages if isinstance(each, Change)}


@pytest.fixture
def written(database: Database) -> Database:
    for name in NAMES:
        quoted = '"' + name.replace('"', '""') + '"'
        for schema in ("public", "odd, schema"):
            database.execute(f'create schema if not exists "{schema}"')
            database.execute(f'create table "{schema}".{quoted} (id int primary key)')
    database.execute("select pg_create_logical_replication_slot(%s, 'wal2json')", (database.slot,))
    for name in NAMES:
        quoted = '"' + name.replace('"', '""') + '"'
        for schema in ("public", "odd, schema"):
            database.execute(f'insert into "{schema}".{quoted} values (1)'.replace("%", "%%"))
    database.subscribe("plain")
    return database


ALWAYS = {("realtime", "subscription")}


def test_each_name_can_be_streamed_alone(written: Database) -> None:
    for name in NAMES:
        assert streamed(written, [f"public.{escaped(name)}"], []) == ALWAYS | {("public", name)}, name
        assert streamed(written, [f"odd, schema.{escaped(name)}"], []) == ALWAYS | {("odd, schema", name)}, name


def test_each_name_can_be_left_out(written: Database) -> None:
    everything = {(schema, name) for schema in ("public", "odd, schema") for name in NAMES}
    for name in NAMES:
        assert streamed(written, ["*.*"], [f"public.{escaped(name)}"]) == ALWAYS | everything - {("public", name)}, name


def test_stars_stand_for_whole_names(written: Database) -> None:
    assert streamed(written, ["public.*"], []) == ALWAYS | {("public", name) for name in NAMES}
    assert streamed(written, ["*.plain"], []) == ALWAYS | {("public", "plain"), ("odd, schema", "plain")}


@pytest.mark.parametrize("exclude", ["realtime.*", "*.subscription", "realtime.subscription", "*.*"])
def test_subscriptions_come_whatever_is_left_out(written: Database, exclude: str) -> None:
    assert streamed(written, ["public.plain"], [exclude]) >= ALWAYS
