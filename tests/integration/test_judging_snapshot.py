"""Rows are judged in the snapshot in which their policies were read; without it they are not judged at all."""

from contextlib import closing

import pytest

from bridge.catalog import SETTINGS, Catalog
from bridge.rls import Judge, Outdated, Question
from bridge.sql import connect
from bridge.table import Column, JsonKind, Policy, Table
from bridge.tally import Tally
from tests.servers.postgres import Database

pytestmark = pytest.mark.versions


def question(database: Database, policy: str) -> Question:
    database.execute("create table note (id int primary key); grant select on note to anon")
    ((oid,),) = database.execute("select 'note'::regclass::oid::int8")
    column = Column("id", 1, 23, "int4", 23, JsonKind.NUMBER, False)
    table = Table(oid, "public", "note", (column,), ("id",), "d", ("id",), ())
    return Question(table, (Policy("p", True, policy, frozenset({"id"}), False),), "anon", "{}", ("(1)", "(2)"))


def test_what_has_changed_since_the_policies_were_read_is_not_seen(database: Database) -> None:
    asked = question(database, "exists (select from public.shown where shown.id = note.id)")
    database.execute("create table shown (id int); insert into shown values (1); grant select on shown to anon")
    with connect(database.dsn, SETTINGS) as source, connect(database.dsn) as judging:
        catalog = Catalog(source)
        catalog.begin()
        catalog.export()
        database.execute("insert into shown values (2); delete from shown where id = 1")

        (answer,) = Judge(judging, catalog.export, Tally()).ask([asked])

        assert answer.shown == {0}
        catalog.end()
        catalog.begin()
        (answer,) = Judge(judging, catalog.export, Tally()).ask([asked])
        assert answer.shown == {1}


def test_a_snapshot_whose_transaction_is_gone_is_not_a_policy_s_error(database: Database) -> None:
    asked = question(database, "true")
    with closing(connect(database.dsn, SETTINGS)) as source, closing(connect(database.dsn)) as judging:
        catalog = Catalog(source)
        catalog.begin()
        exported = catalog.export()
        database.execute("select pg_terminate_backend(%s, 5000)", (source.info.backend_pid,))

        with pytest.raises(Outdated):
            Judge(judging, lambda: exported, Tally()).ask([asked])
