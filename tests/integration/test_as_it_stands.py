"""Privileges, policies, keys, columns and names count as they are when a change is judged, not when it was made."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.judging import stages
from tests.servers.postgres import Database
from tests.streams import Streams

pytestmark = [pytest.mark.versions, pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])]


class Scene:
    """A table `note` with a subscriber; what happens is judged when `judge` is called."""

    def __init__(self, database: Database, plugin: str, streams: Streams) -> None:
        self.database, self.plugin, self._streams = database, plugin, streams
        database.execute("create table note (id int primary key, owner text, body text)")
        database.execute("grant select on note to anon")
        self.subscription = database.subscribe("note", role="anon", sub="a")
        self.letters: list[dict[str, Any]] = []

    def judge(self, *, before: str, after: str = "", leave: bool = False) -> list[dict[str, Any]]:
        """The events of what `before` does, judged when `after` is done as well."""
        self._streams.take(self.plugin)
        with stages(self.database, self.plugin, leave=leave) as wired:
            self.database.execute(before)
            if after:
                self.database.execute(after)
            events = wired.events(self._streams.take(self.plugin))
        self.letters = [json.loads(each.value)["dead_letter"] for each in events if each.dead_letter]
        self.raw = [each for each in events if not each.dead_letter]
        return [json.loads(each.value) for each in self.raw]


@pytest.fixture
def scene(database: Database, plugin: str) -> Iterator[Scene]:
    with Streams(database, [plugin]) as streams:
        yield Scene(database, plugin, streams)


INSERT = "insert into note values (1, 'a', 'x')"


def test_a_revoked_right_counts_for_changes_made_before(scene: Scene) -> None:
    assert scene.judge(before=INSERT)[0]["wal"]["record"] == {"id": 1, "owner": "a", "body": "x"}

    (event,) = scene.judge(before="insert into note values (2, 'a', 'x')", after="revoke select on note from anon")
    assert event["errors"] == ["Error 401: Unauthorized"]

    (event,) = scene.judge(before="insert into note values (3, 'a', 'x')", after="grant select (id) on note to anon")
    assert event["wal"]["record"] == {"id": 3}
    assert [column["name"] for column in event["wal"]["columns"]] == ["id"]


def test_a_policy_made_or_changed_later_counts(scene: Scene) -> None:
    hidden = "alter table note enable row level security"
    assert scene.judge(before=INSERT, after=hidden) == []

    shown = "create policy own on note using (owner = auth.jwt() ->> 'sub')"
    (event,) = scene.judge(before="insert into note values (2, 'a', 'x'), (3, 'b', 'x')", after=shown)
    assert event["wal"]["record"]["id"] == 2
    assert event["is_rls_enabled"] is True

    changed = "alter policy own on note using (owner = 'b')"
    (event,) = scene.judge(before="insert into note values (4, 'a', 'x'), (5, 'b', 'x')", after=changed)
    assert event["wal"]["record"]["id"] == 5


def test_a_function_replaced_behind_a_policy_counts(scene: Scene) -> None:
    scene.database.execute("""
        create function allowed(note) returns bool language sql stable as 'select true';
        alter table note enable row level security;
        create policy p on note using (allowed(note));
    """)
    assert len(scene.judge(before=INSERT)) == 1
    replaced = "create or replace function allowed(note) returns bool language sql stable as 'select false'"
    assert scene.judge(before="insert into note values (2, 'a', 'x')", after=replaced) == []
    renamed = """
        alter function allowed(note) rename to gone;
        create function allowed(note) returns bool language sql stable as 'select true'
    """
    assert scene.judge(before="insert into note values (3, 'a', 'x')", after=renamed) == []


def test_a_dropped_role_gets_nothing_and_the_others_get_theirs(scene: Scene) -> None:
    scene.database.execute("create role leaver; grant select on note to leaver")
    scene.database.subscribe("note", role="leaver")
    events = scene.judge(before=INSERT, after="drop owned by leaver; drop role leaver")
    assert [event["subscription_ids"] for event in events] == [[scene.subscription]]
    assert scene.letters == []


def test_a_renamed_role_is_the_same_role(scene: Scene) -> None:
    scene.database.execute("create role early; grant select on note to early; revoke select on note from anon")
    scene.database.subscribe("note", role="early")
    scene.judge(before=INSERT, after="alter role early rename to late")
    roles = [dict(event.headers)["role"] for event in scene.raw]
    scene.database.execute("drop owned by late; drop role late")
    assert roles == ["anon", "late"]


def test_columns_are_the_live_ones_as_far_as_the_change_has_them(scene: Scene) -> None:
    (event,) = scene.judge(before=INSERT, after="alter table note drop body; alter table note add extra int default 7")
    assert [column["name"] for column in event["wal"]["columns"]] == ["id", "owner", "extra"]
    assert event["wal"]["record"] == {"id": 1, "owner": "a"}

    (event,) = scene.judge(
        before="insert into note values (2, 'a', 8)", after="alter table note rename owner to author"
    )
    assert event["wal"]["record"] == {"id": 2, "extra": 8}


def test_a_changed_type_is_what_the_value_becomes(scene: Scene) -> None:
    (event,) = scene.judge(before=INSERT, after="alter table note alter id type bigint")
    assert event["wal"]["record"]["id"] == 1
    assert event["wal"]["columns"][0]["type"] == "int8"
    (event,) = scene.judge(
        before="insert into note values (2, 'a', 'x')", after="alter table note alter id type text using id::text"
    )
    assert event["wal"]["record"]["id"] == "2"


def test_a_value_that_the_live_type_refuses_is_quarantined(scene: Scene) -> None:
    events = scene.judge(before=INSERT, after="alter table note alter body type int using 5")
    assert events == []
    (letter,) = scene.letters
    assert "does not fit" in letter["reason"]
    assert letter["change"]["record"]["body"] == "x"


def test_a_table_renamed_or_dropped_quarantines_what_its_subscribers_knew(scene: Scene) -> None:
    assert scene.judge(before=INSERT, after="alter table note rename to memo") == []
    assert [(letter["schema"], letter["table"]) for letter in scene.letters] == [("public", "note")]
    (event,) = scene.judge(before="insert into memo values (2, 'a', 'x')")
    assert event["wal"]["table"] == "memo"
    assert scene.judge(before="insert into memo values (3, 'a', 'x')", after="drop table memo") == []
    assert len(scene.letters) == 1


def test_a_table_that_took_anothers_name_is_not_taken_for_it(scene: Scene) -> None:
    swap = """
        create table other (number int primary key, secret text);
        alter table note rename to old;
        alter table other rename to note;
        grant select on note to anon
    """
    # The new `note` has a subscriber too, who must not see the rows of the old one.
    events = scene.judge(
        before=INSERT,
        after=swap + "; insert into realtime.subscription (subscription_id, entity, claims)"
        " values (gen_random_uuid(), 'note', '{\"role\": \"anon\"}')",
    )
    assert events == []


def test_a_key_that_was_added_or_dropped_counts(scene: Scene) -> None:
    (event,) = scene.judge(before=INSERT, after="alter table note drop constraint note_pkey")
    assert event["errors"] == ["Error 400: Bad Request, no primary key"]
    scene.judge(before="insert into note values (2, 'a', 'x')", after="alter table note add primary key (owner, id)")
    assert [event.key for event in scene.raw] == [b'{"owner":"a","id":2}']


def test_a_delete_logged_before_the_identity_was_full_goes_to_all_with_its_key(scene: Scene) -> None:
    scene.database.execute("""
        alter table note enable row level security;
        create policy own on note using (owner = auth.jwt() ->> 'sub');
        insert into note values (1, 'b', 'x')
    """)
    (event,) = scene.judge(before="delete from note", after="alter table note replica identity full")
    assert event["wal"]["old_record"] == {"id": 1}
    scene.database.execute("insert into note values (2, 'b', 'x')")
    assert scene.judge(before="delete from note") == []


def test_a_prepared_transaction_comes_when_it_commits(scene: Scene) -> None:
    (limit,) = scene.database.execute("show max_prepared_transactions")[0]
    assert int(limit) > 0
    scene.database.execute("begin; insert into note values (1, 'a', 'x'); prepare transaction 'p1'")
    assert scene.judge(before="insert into note values (2, 'a', 'x')")[0]["wal"]["record"]["id"] == 2
    (event,) = scene.judge(before="commit prepared 'p1'")
    assert event["wal"]["record"]["id"] == 1


def test_who_loses_sight_of_a_row_hears_that_it_left(scene: Scene) -> None:
    scene.database.execute("""
        alter table note replica identity full;
        alter table note enable row level security;
        create policy own on note using (owner = auth.jwt() ->> 'sub')
    """)
    other = scene.database.subscribe("note", role="anon", sub="b")
    scene.judge(before=INSERT, leave=True)

    update, left = scene.judge(before="update note set owner = 'b', id = 9", leave=True)

    assert (update["wal"]["type"], update["subscription_ids"]) == ("UPDATE", [other])
    assert update["wal"]["old_record"] == {"id": 1}
    assert (left["wal"]["type"], left["subscription_ids"]) == ("DELETE", [scene.subscription])
    assert left["wal"]["old_record"] == {"id": 1}
    assert "record" not in left["wal"]
    event = scene.raw[1]
    assert event.id == scene.raw[0].id + "/leave"
    assert dict(event.headers)["leave"] == "true"
    assert event.key == b'{"id":1}'
    # Off by default.
    assert len(scene.judge(before="update note set owner = 'a'")) == 1


def test_a_row_that_leaves_a_filter_leaves(scene: Scene) -> None:
    scene.database.execute("alter table note replica identity full; delete from realtime.subscription")
    for action in ("*", "UPDATE", "DELETE", "INSERT"):
        scene.database.execute(
            "insert into realtime.subscription (subscription_id, entity, claims, filters, action_filter) values"
            " (gen_random_uuid(), 'note', '{\"role\": \"anon\"}', array[('owner', 'eq', 'a')::realtime.user_defined_filter],"
            " %s)",
            (action,),
        )
    scene.judge(before=INSERT, leave=True)
    (left,) = scene.judge(before="update note set owner = 'b'", leave=True)
    wanted = scene.database.execute(
        "select subscription_id::text from realtime.subscription where action_filter in ('*', 'DELETE')"
    )
    assert set(left["subscription_ids"]) == {each for (each,) in wanted}


def test_subscriptions_with_long_claims_survive_their_update(scene: Scene) -> None:
    # Where the table is Supabase's, an update may leave the long values out of the stream.
    scene.database.execute("alter table realtime.subscription disable trigger user")
    scene.database.execute("alter table realtime.subscription alter claims set storage external")
    scene.database.execute(
        "update realtime.subscription set claims = claims || jsonb_build_object('long', repeat('x', 5000))"
    )
    events = scene.judge(
        before="update realtime.subscription set action_filter = 'UPDATE'; commit; insert into note values (1, 'a', 'x')"
    )
    assert events == []
    (event,) = scene.judge(
        before="update realtime.subscription set action_filter = '*'; commit; update note set body = 'y'"
    )
    assert event["subscription_ids"] == [scene.subscription]


def test_a_truncated_subscription_table_leaves_nobody(scene: Scene) -> None:
    scene.judge(before="select 1")
    with stages(scene.database, scene.plugin) as wired:
        scene.database.execute("truncate realtime.subscription")
        scene.database.execute(INSERT)
        assert wired.events(scene._streams.take(scene.plugin)) == []
        assert len(wired.subscriptions) == 0
