"""A database with Supabase's own realtime.subscription, of an age without selected_columns or action_filter."""

import json

import pytest

from tests.integration.judging import stages
from tests.integration.test_migrations import SUPABASE
from tests.servers.postgres import Database
from tests.streams import Streams


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_subscriptions_of_supabases_own_table_are_served(database: Database, plugin: str) -> None:
    database.execute("drop schema realtime cascade")
    database.execute(SUPABASE)
    database.execute("create table note (id int primary key, body text)")
    subscribe = (
        "insert into realtime.subscription (subscription_id, entity, claims, filters) values"
        " (gen_random_uuid(), 'note', '{\"role\": \"postgres\"}',"
        " array[('id', %s, '{1,2}', %s)::realtime.user_defined_filter]) returning subscription_id::text"
    )
    with Streams(database, [plugin]) as streams:
        # One is there before the bridge; its filter's fourth field, negate, is honoured.
        (loaded,) = database.execute(subscribe, ("in", True))[0]
        streams.take(plugin)
        with stages(database, plugin) as wired:
            (streamed,) = database.execute(subscribe, ("in", False))[0]
            database.execute("insert into note values (1, 'a'), (3, 'b')")
            database.execute("update realtime.subscription set claims = claims || '{\"x\": 1}'")
            database.execute("delete from note where id = 3")
            events = [json.loads(event.value) for event in wired.events(streams.take(plugin))]

    assert [(event["wal"]["type"], event["subscription_ids"]) for event in events] == [
        ("INSERT", [streamed]),
        ("INSERT", [loaded]),
        ("DELETE", [loaded]),
    ]
