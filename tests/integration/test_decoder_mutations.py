"""Mutations of what a server has really written: the same as the bytes say, or a clear error."""

import random

import pytest

from bridge.change import Commit
from bridge.pgoutput import PgOutputDecoder
from bridge.wal2json import Wal2JsonDecoder
from tests.decoding import check_mutations
from tests.servers.postgres import Database
from tests.streams import Streams

pytestmark = pytest.mark.versions

DECODERS: dict[str, type[Wal2JsonDecoder | PgOutputDecoder]] = {
    "wal2json": Wal2JsonDecoder,
    "pgoutput": PgOutputDecoder,
}
TRANSACTION = """
begin;
insert into plain values (1, 'a"b\\ ä €', 1.50, true, 'NaN', '\\xdead', '{"a": [1]}', 'ok', '{1,null}');
insert into plain values (2);
update plain set amount = -amount, id = 3 where id = 1;
update plain set amount = 7 where id = 2;
insert into whole values (1, repeat('x', 4000));
update whole set id = 2;
delete from whole;
delete from plain where id = 2;
select pg_logical_emit_message(true, 'other', 'message');
truncate plain, whole;
commit
"""


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_mutated_captured_bytes_give_what_they_say_or_a_clear_error(database: Database, plugin: str) -> None:
    database.execute("""
        create type mood as enum ('ok');
        create table plain (
            id int primary key, body text, amount numeric, flag bool, level float8, raw bytea, doc jsonb, mood mood, list int[]
        );
        create table whole (id int primary key, body text);
        alter table whole alter body set storage external;
        alter table whole replica identity full;
    """)
    seed = random.randrange(2**32)
    with Streams(database, [plugin]) as streams:
        streams.raw(plugin)
        database.execute(TRANSACTION)
        stream = streams.raw(plugin)
    assert len(stream) >= 11

    refused, valid = check_mutations(DECODERS[plugin], stream, seed, count=200)
    assert min(refused, valid) > 50, f"seed {seed}"
    # Unmutated, they are one transaction to its end.
    decoder = DECODERS[plugin]()
    *_, last = (message for lsn, payload in stream for message in decoder.decode(lsn, payload))
    assert last == Commit(stream[-1][0])
    assert not decoder.in_transaction
