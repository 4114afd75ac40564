"""Where the socket's batches end never matters: one message at a time gives the events that all at once give."""

from collections.abc import Iterable, Sequence

import pytest

from bridge.change import Message
from bridge.event import Event
from tests.integration.judging import stages
from tests.servers.postgres import Database
from tests.streams import Streams

SETUP = """
create table note (id int primary key, owner text, tags text[]);
grant select on note to anon;
alter table note enable row level security;
create policy mine on note to anon using (owner = auth.jwt() ->> 'sub');
"""
# Each line is a transaction.
STORY = """
insert into realtime.subscription (subscription_id, entity, claims) values (gen_random_uuid(), 'note', '{"role": "anon", "sub": "a"}')
insert into note values (1, 'a', '{x}')
insert into note values (2, 'b', '{y}')
insert into realtime.subscription (subscription_id, entity, claims) values (gen_random_uuid(), 'note', '{"role": "anon", "sub": "b"}'); insert into note values (3, 'b', null)
insert into note values (4, 'b', null), (5, 'a', null)
update note set tags = '{z}' where id < 4
create table later (id int primary key); insert into realtime.subscription (subscription_id, entity, claims) values (gen_random_uuid(), 'later', '{"role": "postgres"}')
insert into later values (1)
delete from realtime.subscription where claims ->> 'sub' = 'a'
insert into note values (6, 'a', null), (7, 'b', null)
delete from note where id = 7
truncate realtime.subscription
insert into note values (8, 'b', null)
"""


def events(database: Database, plugin: str, batches: Iterable[Sequence[Message]]) -> list[Event]:
    """What the stages make of these batches, from no subscriptions on."""
    with stages(database, plugin, loaded=False) as wired:
        return [event for batch in batches for event in wired.events(batch)]


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_events_do_not_depend_on_where_batches_end(database: Database, plugin: str) -> None:
    database.execute(SETUP)
    with Streams(database, [plugin]) as streams:
        for transaction in STORY.strip().split("\n"):
            with database.connection.transaction():
                database.execute(transaction)
        messages = streams.take(plugin)

    whole = events(database, plugin, [messages])

    assert [event.id.split("/", 4)[4] for event in whole] == [
        *["public.note/anon"] * 3,  # 1; then 4 and 5: who subscribes in a transaction does not see that transaction
        *["public.note/anon"] * 3,  # the update
        "public.later/postgres",
        *["public.note/anon"] * 2,  # 7, and its DELETE
    ]
    assert events(database, plugin, [[message] for message in messages]) == whole
    for cut in range(1, len(messages)):
        # Three batches, for what a batch holds may hide what an earlier one has left over.
        for end in (cut + 1, cut + 3, cut + 5):
            batches = [messages[:cut], messages[cut:end], messages[end:]]
            assert events(database, plugin, batches) == whole, f"cut at {cut} and {end}"
