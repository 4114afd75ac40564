"""`walrus-bridge trace` on a real server, beside a running bridge: what it says is what the bridge did."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.errors import Exit
from tests.acceptance.test_streaming import config
from tests.command import Done
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.versions

Run = Callable[..., Done]
ALICE, BOB = "a11ce000-0000-4000-8000-000000000001", "b0b00000-0000-4000-8000-000000000002"
SETUP = """
create table note (id int, lang varchar(5), owner uuid, room int, body text, primary key (id, lang));
create table other (id int primary key);
grant select on note, other to authenticated;
grant select (lang) on note to anon;
alter table note enable row level security;
create policy own on note using (owner = auth.uid());
create policy "open room" on note using (room = 1);
create policy hush on note as restrictive using (body is distinct from 'secret');
"""


class World:
    """A bridge that has delivered, and a second slot that has stayed behind so that the WAL is still there."""

    def __init__(
        self, database: Database, bridge: Any, walrus_bridge: Run, path: Path, settings: dict[str, Any]
    ) -> None:
        self.database = database
        self.settings = settings
        self.path = path
        self._run = walrus_bridge
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.running = bridge(config=settings)
        self.running.wait_until_streaming()

    def keep(self) -> None:
        slot = self.database.slot
        self.database.execute("select pg_copy_logical_replication_slot(%s, %s)", (slot, f"{slot}_replay"))

    def run(self, *arguments: str) -> Done:
        return self._run("trace", *arguments, "--config", str(self.path))

    def told(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.status == Exit.OK, done.stderr
        assert done.stderr == ""
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def got(self, kind: str) -> set[str]:
        """Who has had an event of this kind."""
        return {
            each for event in self.running.events if event["wal"]["type"] == kind for each in event["subscription_ids"]
        }

    def subscribe(self, filters: str = "", action: str = "*", role: str = "authenticated", sub: str = ALICE) -> str:
        rows = self.database.execute(
            "insert into realtime.subscription (subscription_id, entity, claims, action_filter, filters)"
            f" values (gen_random_uuid(), 'note', %s, %s, array[{filters}]::realtime.user_defined_filter[])"
            " returning subscription_id::text",
            (json.dumps({"role": role, "sub": sub, "email": "not@to.be.told"}), action),
        )
        return str(rows[0][0])


@pytest.fixture(params=["wal2json", "pgoutput"])
def plugin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(database: Database, bridge: Any, walrus_bridge: Run, tmp_path: Path, plugin: str) -> World:
    database.execute(SETUP)
    return World(database, bridge, walrus_bridge, tmp_path / "trace.yaml", config(database, plugin))


def test_why_they_got_it_and_why_not(world: World) -> None:
    gets, bob = world.subscribe(), world.subscribe(sub=BOB)
    room, inserts = world.subscribe("('room', 'eq', '3')"), world.subscribe(action="INSERT")
    unauthorized = world.subscribe(role="anon")
    world.keep()
    world.database.execute("insert into note values (7, 'de', %s, 2, 'x'), (8, 'de', %s, 1, 'secret')", (ALICE, ALICE))
    world.database.execute("update note set room = 4 where id = 7")
    late = world.subscribe()
    world.database.wait_until_confirmed()
    before = world.database.execute(
        "select slot_name, confirmed_flush_lsn from pg_replication_slots where slot_name like '%_replay'"
    )

    # The last change of the row
    update = world.told("public.note", "id=007", "lang=de")
    assert (update["change"]["kind"], update["change"]["key"]) == ("UPDATE", {"id": "7", "lang": "de"})
    assert update["is_recorded"]
    assert [each["kind"] for each in update["others"]] == ["INSERT"]
    outcomes = {each["subscription_id"]: each for each in update["details"]}
    counts = {each["outcome"]: (each["subscriptions"], each["made_after"]) for each in update["reasons"]}
    assert counts == {"gets": (2, 1), "policy": (1, 0), "filter": (1, 0), "action": (1, 0), "401": (1, 0)}

    # Each by itself: as the bridge did
    for who, outcome in [
        (gets, "gets"),
        (bob, "policy"),
        (room, "filter"),
        (inserts, "action"),
        (unauthorized, "401"),
        (late, "gets"),
    ]:
        (detail,) = world.told("public.note", '{"lang": "de", "id": 7}', "--subscription", who.upper())["details"]
        assert detail["outcome"] == outcome
        assert detail["made_after"] is (who == late)
        assert (who in world.got("UPDATE")) is (outcome in {"gets", "401"} and who != late)
        outcomes[who] = detail
    policies = {each["name"]: each["answer"] for each in outcomes[bob]["policies"]}
    assert policies == {"own": "false", "open room": "false", "hush": "true"}
    assert outcomes[bob]["why"] == "no permissive policy passes"
    assert outcomes[room]["filters"] == [{"filter": "room eq 3", "value": "4", "passes": False, "why": None}]
    assert outcomes[unauthorized]["why"] == "anon may not SELECT id"
    assert "is subscribed to INSERT" in outcomes[inserts]["why"]
    assert outcomes[gets]["subject"] == ALICE

    # An earlier change, by its LSN and by the id of its event
    insert = world.told("public.note", "id=7", "lang=de", "--lsn", update["others"][0]["lsn"])
    assert insert["change"] == update["others"][0]
    by_id = world.told(insert["change"]["id"] + "/authenticated")
    assert (by_id["change"], by_id["reasons"]) == (insert["change"], insert["reasons"])
    assert world.told(insert["change"]["id"])["reasons"] == insert["reasons"]

    # The restrictive policy
    secret = world.told("public.note", "id=8", "lang=de", "--subscription", gets)["details"][0]
    assert (secret["outcome"], secret["why"]) == ("policy", "the restrictive policy hush must pass")

    # For people: neither the row nor the claims
    text = world.run("public.note", "id=8", "lang=de", "--subscription", gets).stdout
    assert re.search(r"policy  own \(permissive\): true\n +\(owner = auth.uid\(\)\)", text)
    assert "not@to.be.told" not in text + json.dumps(update)

    # And it has left nothing behind, and moved nothing
    names = "select slot_name from pg_replication_slots where database = current_database() order by 1"
    both = [(world.database.slot,), (f"{world.database.slot}_replay",)]
    wait_until(lambda: world.database.execute(names) == both, "its copy of the slot gone")
    assert before == world.database.execute(
        "select slot_name, confirmed_flush_lsn from pg_replication_slots where slot_name like '%_replay'"
    )
    assert world.running.stop() == Exit.OK


def test_deletes_moves_of_the_key_and_policies_that_raise(world: World) -> None:
    who = world.subscribe()
    world.keep()
    world.database.execute("insert into note values (1, 'de', %s, 2, 'x')", (ALICE,))
    world.database.execute("update note set lang = 'en' where id = 1")
    world.database.execute("delete from note where id = 1")
    world.database.wait_until_confirmed()

    # The old key finds the change that took it away, too
    german, english = world.told("public.note", "id=1", "lang=de"), world.told("public.note", "id=1", "lang=en")
    assert [each["kind"] for each in german["others"]] == ["INSERT"]
    assert german["change"]["kind"] == "UPDATE"
    assert [each["kind"] for each in english["others"]] == ["UPDATE"]
    assert english["change"]["kind"] == "DELETE"
    (detail,) = english["details"]
    assert detail["outcome"] == "gets"
    assert "all get it, with the key only" in detail["row_security"]
    assert world.got("DELETE") == {who}

    # A policy that raises
    world.database.execute("create policy odd on note using (1 / (id - id) = 1)")
    world.database.execute("insert into note values (2, 'de', %s, 2, 'x')", (ALICE,))
    world.running.wait_for(lambda: world.running.dead_letters, "a dead letter")
    (detail,) = world.told("public.note", "id=2", "lang=de")["details"]
    assert detail["outcome"] == "undecided"
    assert "22012" in detail["why"]
    answers = {each["name"]: each["answer"] for each in detail["policies"]}
    assert (answers["odd"], answers["own"]) == ("error", "true")


def test_a_change_that_does_not_fit_the_table_any_more_and_a_large_one(world: World) -> None:
    who = world.subscribe(role="postgres")
    world.keep()
    world.database.execute("insert into note values (1, 'de', null, 1, 'x'), (2, 'de', null, 1, repeat('1', 2000000))")
    world.database.wait_until_confirmed()

    large = world.told("public.note", "id=2", "lang=de", "--subscription", who)
    assert [each["outcome"] for each in large["details"]] == ["gets"]
    assert any("413" in note for note in large["notes"])

    world.database.execute("alter table note drop constraint note_pkey; drop policy hush on note")
    world.database.execute("alter table note alter body type int using null, add primary key (id, lang)")
    (detail,) = world.told("public.note", "id=1", "lang=de", "--subscription", who)["details"]
    assert detail["outcome"] == "undecided"
    assert "does not fit the table as it is now" in detail["why"]


def test_a_partitions_change_is_one_of_the_partitioned_table_too(world: World) -> None:
    world.database.execute("""
        create table "Odd.name" (id int primary key) partition by range (id);
        create table "a part, of it" partition of "Odd.name" for values from (0) to (10);
        grant select on "Odd.name", "a part, of it" to authenticated;
    """)
    world.keep()
    whole, part = world.database.subscribe('"Odd.name"'), world.database.subscribe('"a part, of it"')
    world.database.execute('insert into "Odd.name" values (5)')
    world.database.wait_until_confirmed()

    above = world.told(r"public.Odd\.name", "5")
    assert [each["subscription_id"] for each in above["details"]] == [whole]
    assert above["change"]["id"].endswith("/public.Odd-2Ename")
    assert world.told(above["change"]["id"])["details"] == above["details"]
    own = world.told("public.a part, of it", "5")
    assert [each["subscription_id"] for each in own["details"]] == [part]
    assert world.got("INSERT") == {whole, part}


def test_what_is_not_in_the_wal_any_more(world: World) -> None:
    who, filtered = world.subscribe(), world.subscribe("('room', 'eq', '2')")
    world.keep()
    world.database.execute("insert into note values (1, 'de', %s, 2, 'x')", (ALICE,))
    world.database.wait_until_confirmed()
    told = world.told("public.note", "id=1", "lang=de")
    world.database.execute("select pg_drop_replication_slot(%s)", (f"{world.database.slot}_replay",))

    # By an event's id there is no more to tell than how
    world.run(told["change"]["id"]).refused(Exit.NOT_KEPT, "not kept any more", "walrus-bridge trace public.note KEY")
    # By the key there is the row as it is now
    now = world.told("public.note", "id=1", "lang=de")
    assert not now["is_recorded"]
    assert now["change"]["id"] is None
    assert {each["outcome"] for each in now["reasons"]} == {"gets"}
    world.database.execute(
        "update realtime.subscription set filters = array[('room', 'eq', '3')]::realtime.user_defined_filter[] where subscription_id = %s",
        (filtered,),
    )
    world.database.execute("update note set room = 3")
    world.database.wait_until_confirmed()
    text = world.run("public.note", "id=1", "lang=de", "--subscription", filtered).stdout
    assert "as it is now" in text
    assert "filter  room eq 3: passes, the change has 3" in text
    # Or what PostgreSQL shows them
    gone = world.told("public.note", "id=99", "lang=de", "--subscription", who)
    assert [each["outcome"] for each in gone["details"]] == ["hidden"]


def test_with_logins_of_few_rights(
    database: Database, logins: tuple[str, str], bridge: Any, walrus_bridge: Run, tmp_path: Path
) -> None:
    database.execute(SETUP)
    settings = config(database)
    settings["source"]["connection"], settings["rls"], settings["migrations"] = (
        logins[0],
        {"connection": logins[1]},
        "check",
    )
    world = World(database, bridge, walrus_bridge, tmp_path / "trace.yaml", settings)
    alice, bob = world.subscribe(), world.subscribe(sub=BOB)
    world.keep()
    database.execute("insert into note values (1, 'de', %s, 2, 'x')", (ALICE,))
    database.wait_until_confirmed()

    outcomes = {
        each["subscription_id"]: each["outcome"] for each in world.told("public.note", "id=1", "lang=de")["details"]
    }
    assert outcomes == {alice: "gets", bob: "policy"}

    # The source login cannot read the row itself
    database.execute("select pg_drop_replication_slot(%s)", (f"{database.slot}_replay",))
    for who, outcome in ((alice, "shown"), (bob, "hidden")):
        (detail,) = world.told("public.note", "id=1", "lang=de", "--subscription", who)["details"]
        assert detail["outcome"] == outcome
    # And the status
    done = walrus_bridge("status", "--config", str(world.path), "--json")
    assert done.status == Exit.OK, done.stderr
    assert json.loads(done.stdout)["slot"]["application"] == "walrus-bridge"


def test_many_subscriptions_are_counted(world: World) -> None:
    world.database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims) select gen_random_uuid(), 'note',"
        " jsonb_build_object('role', 'authenticated', 'sub', gen_random_uuid()) from generate_series(1, 3000)"
    )
    who = world.subscribe()
    world.keep()
    world.database.execute("insert into note values (1, 'de', %s, 2, 'x')", (ALICE,))
    world.database.wait_until_confirmed()

    told = world.told("public.note", "id=1", "lang=de")
    assert [(each["outcome"], each["subscriptions"]) for each in told["reasons"]] == [("policy", 3000), ("gets", 1)]
    assert len(told["details"]) == 2
    assert told["details"][1]["subscription_id"] == who


def test_what_cannot_be_answered_is_refused(world: World) -> None:
    who = world.subscribe()
    world.keep()
    other = world.database.subscribe("other")
    world.database.execute("insert into note values (1, 'de', null, 1, 'x')")
    world.database.wait_until_confirmed()
    known = world.told("public.note", "id=1", "lang=de")["change"]["id"]
    row = ("public.note", "id=1", "lang=de")

    world.run(*row, "--subscription", other).refused(Exit.SOURCE_REFUSED, "it is subscribed to public.other")
    world.run(*row, "--subscription", ALICE).refused(Exit.SOURCE_REFUSED, "it has ended, or never was")
    world.run(*row, "--lsn", "0/1").refused(Exit.SOURCE_REFUSED, "the row has no change at 0/1", "but at ")
    assert world.run(*row, "--lsn", "here").status == Exit.USAGE
    world.run("public.note", "id=x", "lang=de").refused(
        Exit.SOURCE_REFUSED, "the key column id", "invalid input syntax"
    )
    world.run("public.note", "id=1").refused(Exit.USAGE, "'lang' is missing in the key")
    world.run("public.nothing", "1").refused(Exit.SOURCE_REFUSED, "there is no table public.nothing")
    world.run("nothing").refused(Exit.USAGE, "neither an event's id nor schema.table")
    world.run(f"1{known}").refused(Exit.SOURCE_REFUSED, "the event is of the server 1")
    world.run(known.replace("-1/", "-7/")).refused(Exit.SOURCE_REFUSED, "timeline 7")
    world.run(known.replace("/00000000/", "/00000009/")).refused(Exit.SOURCE_REFUSED, "there is no change at")
    world.database.execute("alter table note rename to note_before")
    world.run(known).refused(Exit.SOURCE_REFUSED, "dropped or renamed")
    assert world.told("public.note_before", "id=1", "lang=de", "--subscription", who)["is_recorded"] is False

    settings = world.settings | {"source": world.settings["source"] | {"tables": {"exclude": ["public.other"]}}}
    world.path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    world.run("public.other", "1").refused(Exit.SOURCE_REFUSED, "not streamed at all")
