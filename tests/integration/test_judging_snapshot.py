"""Rows are judged in the snapshot in which their policies were read; without it they are not judged at all."""

from contextlib import closing

import pytest

from bridge.catalog import SETTINGS, Catalog
from bridge.rls import FEW_LINES, Judge, Outdated
from bridge.row_queries import Question
from bridge.sql import connect
from bridge.table import Column, JsonKind, Policy, Table
from bridge.tally import Tally
from tests.servers.postgres import Database

pytestmark = pytest.mark.versions


def question(database: Database, policy: str, count: int = 2) -> Question:
    """Whether the rows 1 to `count` are shown."""
    database.execute("create table note (id int primary key); grant select on note to anon")
    ((oid,),) = database.execute("select 'note'::regclass::oid::int8")
    column = Column("id", 1, 23, "int4", 23, JsonKind.NUMBER, False)
    table = Table(oid, "public", "note", (column,), ("id",), "d", ("id",), ())
    lines = tuple(f"({number})" for number in range(1, count + 1))
    return Question(table, (Policy("p", True, policy, frozenset({"id"}), False),), "anon", "{}", lines)


SHOWN = "exists (select from public.shown where shown.id = note.id)"
TABLE = "create table shown (id int); insert into shown values (1); grant select on shown to anon"
CHANGE = "insert into shown values (2); delete from shown where id = 1"


@pytest.mark.parametrize("count", [2, FEW_LINES + 1])
def test_what_has_changed_since_the_policies_were_read_is_not_seen(database: Database, count: int) -> None:
    asked = question(database, SHOWN, count)
    database.execute(TABLE)
    with connect(database.dsn, SETTINGS) as source, connect(database.dsn) as judging:
        catalog = Catalog(source)
        catalog.begin()
        database.execute(CHANGE)

        (answer,) = Judge(judging, catalog, Tally()).ask([asked])

        assert answer.shown == {0}
        catalog.end()
        catalog.begin()
        (answer,) = Judge(judging, catalog, Tally()).ask([asked])
        assert answer.shown == {1}


def test_nor_what_a_transaction_did_that_had_begun_before(database: Database) -> None:
    asked = question(database, SHOWN)
    database.execute(TABLE)
    with (
        connect(database.dsn) as writer,
        connect(database.dsn, SETTINGS) as source,
        connect(database.dsn) as judging,
    ):
        writer.execute("begin")
        writer.execute(CHANGE)
        catalog = Catalog(source)
        catalog.begin()
        writer.execute("commit")

        (answer,) = Judge(judging, catalog, Tally()).ask([asked])

        assert answer.shown == {0}


@pytest.mark.parametrize(("then", "now"), [(1, 0), (0, 1)])
def test_nor_does_an_error_count_that_there_was_not_then(database: Database, then: int, now: int) -> None:
    asked = question(database, "1 / (select min(shown.id) from public.shown) = 1")
    database.execute(TABLE)
    database.execute("update shown set id = %s", (then,))
    with connect(database.dsn, SETTINGS) as source, connect(database.dsn) as judging:
        catalog = Catalog(source)
        catalog.begin()
        database.execute("update shown set id = %s", (now,))

        (answer,) = Judge(judging, catalog, Tally()).ask([asked])

        assert answer.shown == (frozenset({0, 1}) if then else frozenset())
        assert set(answer.undecided) == (set() if then else {0, 1})


def test_a_snapshot_is_exported_only_where_a_new_one_would_differ(database: Database) -> None:
    asked = question(database, SHOWN)
    database.execute(TABLE)
    with connect(database.dsn, SETTINGS) as source, connect(database.dsn) as judging:
        catalog = Catalog(source)
        for change, exports in ((None, 0), (CHANGE, 1)):
            catalog.begin()
            if change:
                database.execute(change)
            Judge(judging, catalog, Tally()).ask([asked])
            assert source.execute("select count(*) from pg_ls_dir('pg_snapshots')").fetchone() == (exports,)
            catalog.end()


def test_a_snapshot_whose_transaction_is_gone_is_not_a_policy_s_error(database: Database) -> None:
    asked = question(database, "true")
    with closing(connect(database.dsn, SETTINGS)) as source, closing(connect(database.dsn)) as judging:
        catalog = Catalog(source)
        catalog.begin()
        catalog.export()
        database.execute("select pg_terminate_backend(%s, 5000)", (source.info.backend_pid,))
        database.execute("create table another ()")

        with pytest.raises(Outdated):
            Judge(judging, catalog, Tally()).ask([asked])

        assert judging.execute("select 1").fetchone() == (1,), "it can be asked again"
