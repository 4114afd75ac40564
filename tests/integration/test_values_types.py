"""Values exactly as `to_jsonb` gives them, for every built-in type, with both plugins."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bridge.catalog import Catalog
from bridge.event import Values
from bridge.judged import Audience, Judged, Members
from bridge.table import Rights, Table
from bridge.valuemaker import ValueMaker
from tests.servers.postgres import Database
from tests.streams import Streams

EXAMPLES, ROWS = 30, 25

SETUP = """
create schema app;
create extension citext schema app;
create extension hstore schema app;
create extension ltree schema app;
create type app.mood as enum ('sad', 'ok', 'with "quotes", and comma');
create type app.pair as (x int, y text);
create domain app.small as int check (value < 1000);
create domain app.exact as numeric;
create domain app.inexact as float8;
create domain app.word as text;
create domain app.whenever as timestamptz;
create domain app.words as text[];
"""

INTEGERS = ["0", "1", "-1", "32767", "-32768"]
NUMERICS = ["0", "0.0", "-0.00", "1.10", "1e20", "1e-20", "123456789012345678901234567890.123456789", "NaN", "Infinity"]
FLOATS = ["0", "-0", "0.1", "1e20", "1e-7", "1.5e300", "-2.5e-300", "123456.789", "NaN", "Infinity", "-Infinity"]
TEXTS = [
    "",
    " ",
    "a",
    "NULL",
    "null",
    '"',
    "\\",
    "{}",
    "(a,b)",
    "a\nb\tc",
    "\x01\x1f\x7f",
    "ä€\U0001f600",
    "</script>",
    "a'b",
]
DATES = ["2022-02-28", "0001-01-01", "0044-03-15 BC", "9999-12-31", "10000-01-01", "infinity", "-infinity"]
CLOCKS = ["00:00:00", "12:34:56.7", "23:59:59.999999", "01:02:03.000001"]
STAMPS = [f"{day} {clock}" for day in ("2022-02-28", "0001-01-01", "9999-12-31", "10000-01-01") for clock in CLOCKS]
JSONS = ["null", "1", "1.10", "1e3", '"a"', '{"b": 1, "a": [1, null, {"c": 2.50}]}', '{"a":1,"a":2}', '"\\u00e4"', "[]"]


def texts(*fixed: str) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), st.sampled_from(fixed))


anything = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)
words = st.one_of(st.none(), st.sampled_from(TEXTS), anything)
numerics = st.one_of(
    st.none(), st.sampled_from(NUMERICS), st.decimals(allow_nan=False, allow_infinity=False, places=7).map(str)
)
doubles = st.one_of(st.none(), st.sampled_from(FLOATS), st.floats().map(repr))
singles = st.one_of(st.none(), st.sampled_from(FLOATS[:5]), st.floats(width=32).map(repr))

# By type: how its values' texts are drawn.
TYPES: dict[str, st.SearchStrategy[str | None]] = {
    "int2": texts(*INTEGERS),
    "int4": st.one_of(texts(*INTEGERS), st.integers(-(2**31), 2**31 - 1).map(str)),
    "int8": st.one_of(texts(*INTEGERS), st.integers(-(2**63), 2**63 - 1).map(str)),
    "numeric": numerics,
    "numeric(20,5)": st.one_of(st.none(), st.decimals(-(10**9), 10**9, places=5).map(str)),
    "float4": singles,
    "float8": doubles,
    "bool": texts("t", "f"),
    "text": words,
    "varchar(40)": words,
    "char(5)": texts("", "ab", "ä", "12345"),
    '"char"': texts("", "a", '"', "\\"),
    "name": texts(*TEXTS[:8]),
    "uuid": st.one_of(st.none(), st.uuids().map(str)),
    "oid": texts("0", "4294967295"),
    "date": texts(*DATES),
    "timestamp": texts(*STAMPS, "0044-03-15 12:00:00 BC", "infinity", "-infinity"),
    "timestamptz": texts(*(f"{each}+05:30" for each in STAMPS), "0044-03-15 12:00:00 BC", "infinity", "-infinity"),
    "time": texts(*CLOCKS, "24:00:00"),
    "timetz": texts(*(f"{each}-03:30" for each in CLOCKS)),
    "interval": texts("1 day 02:03:04.5", "-1 year 2 mons", "00:00:00"),
    "json": texts(*JSONS),
    "jsonb": texts(*JSONS),
    "bytea": st.one_of(st.none(), st.binary(max_size=12).map(lambda raw: "\\x" + raw.hex())),
    "inet": texts("10.0.0.1", "::1/64"),
    "cidr": texts("10.0.0.0/8"),
    "macaddr": texts("08:00:2b:01:02:03"),
    "money": texts("12.34", "-0.01"),
    "bit(4)": texts("0101"),
    "varbit": texts("", "01011"),
    "int4range": texts("empty", "[1,10)", "(,)"),
    "tstzrange": texts('["2022-01-01 00:00+00",)'),
    "int4multirange": texts("{}", "{[1,3),[5,7)}"),
    "point": texts("(1.5,-2)"),
    "tsvector": texts("'a':1 'b''c':2"),
    "xml": texts('<a b="c">d</a>'),
    "pg_lsn": texts("0/15E4E50"),
    "int4[]": texts("{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={1,2}"),
    "text[]": texts("{}", '{plain,NULL,"with \\"quote\\", comma","\\\\"}'),
    "float8[]": texts("{1e20,NaN,-0}"),
    "timestamptz[]": texts('{"2022-02-28 12:34:56+05:30"}'),
    "jsonb[]": texts('{"{\\"a\\": 1.10}"}'),
    "app.mood": texts("sad", 'with "quotes", and comma'),
    "app.mood[]": texts('{sad,"with \\"quotes\\", and comma"}'),
    "app.pair": texts('(1,"a ""b"", c")', "(,)"),
    "app.pair[]": texts('{"(1,\\"a b\\")",NULL}'),
    "app.small": texts("1", "-5"),
    "app.exact": numerics,
    "app.inexact": doubles,
    "app.word": words,
    "app.whenever": texts("2022-02-28 12:34:56+05:30", "infinity"),
    "app.words": texts("{a,NULL}"),
    "app.citext": words,
    "app.hstore": texts('"a"=>"1", "b"=>NULL', '"\\""=>"\\\\"'),
    "app.ltree": texts("a.b.c"),
}
NOT_IN_WAL2JSON = {"NaN", "Infinity", "-Infinity", "nan", "inf", "-inf"}
"""What wal2json 2.5 writes as null, for float4, float8 and numeric; a domain keeps it."""


class Exact(str):
    """A number's own digits."""


def parsed(text: bytes) -> Any:
    return json.loads(text, parse_float=Exact, parse_int=Exact)


def judged(change: Any, table: Table) -> Judged:
    rights = Rights("r", False, False, True, frozenset(table.names), True, ())
    return Judged(change, table, [Audience(rights, None, Members(()))])


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_values_are_those_of_to_jsonb(database: Database, plugin: str) -> None:
    database.execute(SETUP)
    columns = {f"c{number}": name for number, name in enumerate(TYPES)}
    listed = ", ".join(f"{column} {name}" for column, name in columns.items())
    database.execute(f"create table app.every (id serial primary key, {listed})")
    with Streams(database, [plugin]) as streams:
        catalog = Catalog(streams.connection)
        maker = ValueMaker(streams.connection, Streams.CODECS[plugin], 1 << 20)
        seen = 0

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(st.tuples(*TYPES.values()), min_size=ROWS, max_size=ROWS))
        def check(rows: list[tuple[str | None, ...]]) -> None:
            nonlocal seen
            database.execute("truncate app.every restart identity")
            holes = ", ".join(f"%s::{name}" for name in columns.values())
            with database.connection.cursor() as cursor:
                cursor.executemany(f"insert into app.every ({', '.join(columns)}) values ({holes})", rows)
            settings_of_values = "set timezone = 'UTC'; set intervalstyle = postgres; set extra_float_digits = 1"
            database.execute(settings_of_values)
            expected = [
                text.encode() for (text,) in database.execute("select to_jsonb(t)::text from app.every t order by id")
            ]

            changes = [change for change in streams.changes(plugin) if change.kind == "INSERT"]
            catalog.begin()
            found = catalog.look_up([("app", "every", None)])[0]
            assert found is not None
            table = catalog.tables([found.oid])[found.oid]
            made = maker.make([judged(change, table) for change in changes])
            catalog.end()

            assert len(made) == len(rows)
            for row, values, text in zip(rows, made, expected, strict=True):
                assert isinstance(values, Values), values
                wanted = parsed(text)
                for (column, name), given_text in zip(columns.items(), row, strict=True):
                    if (
                        plugin == "wal2json"
                        and name in {"numeric", "float4", "float8"}
                        and given_text in NOT_IN_WAL2JSON
                    ):
                        assert values.new[column] == b"null"
                    else:
                        assert parsed(values.new[column]) == wanted[column], f"{name}: {given_text!r}"
                seen += 1

        check()
        assert seen >= ROWS
