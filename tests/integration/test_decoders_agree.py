"""Both plugins give the same changes: the same rows, the same old rows, the same ids, whatever the transactions do."""

import random

import psycopg
import pytest

from bridge.change import Change, Row
from bridge.values import Codec, size_text
from tests.servers.postgres import Database
from tests.streams import Streams

SETUP = """
create table plain (id int primary key, body text, amount numeric, flag bool, raw bytea);
alter table plain alter body set storage external;
create table whole (like plain including all);
alter table whole alter body set storage external;
alter table whole replica identity full;
create table indexed (id int primary key, email text not null, body text);
create unique index by_email on indexed (email);
alter table indexed replica identity using index by_email;
create table paired (a int, b text, c int, primary key (b, a));
create table keyless (line text);
alter table keyless replica identity full;
create table parts (id int, at int, primary key (at, id)) partition by range (at);
create table parts_low partition of parts for values from (0) to (10);
create table parts_high partition of parts for values from (10) to (20);
"""
LONG = "x" * 3000
STATEMENTS = [
    "insert into plain values ({n}, 'a', {n}.50, true, '\\xdead') on conflict do nothing",
    f"insert into plain values ({{n}}, '{LONG}', null, false, null) on conflict do nothing",
    "update plain set amount = amount + 1 where id % 3 = {m}",
    "update plain set id = id + 100 where id = {n}",
    "delete from plain where id % 7 = {m}",
    f"insert into whole values ({{n}}, '{LONG}', 1.10, null, '\\x') on conflict do nothing",
    "insert into whole values ({n}, null, null, true, null) on conflict do nothing",
    "update whole set flag = not flag where id % 3 = {m}",
    "update whole set id = -id where id = {n}",
    "delete from whole where id % 5 = {m}",
    "insert into indexed values ({n}, 'e{n}', 'b') on conflict do nothing",
    "update indexed set body = 'c' where id % 3 = {m}",
    "update indexed set email = email || '!' where id = {n}",
    "delete from indexed where id % 5 = {m}",
    "insert into paired values ({n}, 'k', 1) on conflict do nothing",
    "update paired set c = {m} where a % 2 = 0",
    "update paired set b = b || 'x' where a = {n}",
    "delete from paired where a % 5 = {m}",
    "insert into keyless values ('l{n}')",
    "update keyless set line = line || '.' where line = 'l{n}'",
    "delete from keyless where line = 'l{n}'",
    "insert into parts values ({n}, {m}) on conflict do nothing",
    "update parts set at = (at + 10) % 20 where id = {n}",
    "savepoint s; insert into plain values (-{n}); rollback to s",
    "truncate keyless",
    "truncate plain, indexed",
    "select pg_logical_emit_message(true, 'other', 'message')",
]


def described(change: Change, codec: Codec) -> tuple[object, ...]:
    def texts(row: Row | None) -> dict[str, tuple[int, str | None]] | None:
        if row is None:
            return None
        return {
            name: (oid, None if raw is None else codec.text(raw, oid))
            for name, oid, raw in zip(row.shape.names, row.shape.types, row.values, strict=True)
        }

    transaction = change.transaction
    return (
        (change.kind, change.schema, change.table),
        (transaction.xid, transaction.commit_lsn, transaction.committed_at, change.lsn, change.seq),
        texts(change.new),
        texts(change.old),
        size_text(change, codec),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_same_changes_come_from_both(database: Database, seed: int) -> None:
    database.execute(SETUP)
    dice = random.Random(seed)
    with Streams(database) as streams:
        for _ in range(40):
            statements = [
                dice.choice(STATEMENTS).format(n=dice.randrange(30), m=dice.randrange(3))
                for _ in range(dice.randrange(1, 8))
            ]
            try:
                database.execute(f"begin; {'; '.join(statements)}; {dice.choice(['commit'] * 5 + ['rollback'])}")
            except psycopg.errors.UniqueViolation:
                database.execute("rollback")
        with database.connection.cursor().copy("copy plain (id, body) from stdin") as copy:
            copy.write("".join(f"{number}\tcopied\n" for number in range(1000, 1400)))

        found = {
            plugin: [described(change, codec) for change in streams.changes(plugin)]
            for plugin, codec in Streams.CODECS.items()
        }

    assert len(found["wal2json"]) > 450
    for ours, theirs in zip(found["wal2json"], found["pgoutput"], strict=True):
        assert ours == theirs, f"seed {seed}"
    ids = [each[1] for each in found["wal2json"]]
    assert len(set(ids)) == len(ids)


def test_commits_end_at_the_same_place(database: Database) -> None:
    database.execute("create table plain (id int primary key)")
    with Streams(database) as streams:
        for number in range(5):
            database.execute("insert into plain values (%s)", (number,))
        ours, theirs = (streams.commits(plugin) for plugin in ("wal2json", "pgoutput"))
    # wal2json also tells of transactions that changed no table.
    assert {each.end_lsn for each in theirs} <= {each.end_lsn for each in ours}
    assert len(theirs) == 5
