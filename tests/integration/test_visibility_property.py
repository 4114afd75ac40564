"""Visibility: whatever the policies, an event reaches exactly the subscribers to whom PostgreSQL shows the row.

Random roles, memberships, grants, policies, claims and rows, inserted, updated and deleted; each audience is compared with
what a plain SELECT shows that role under those claims, and the columns with what it may select.

Mutations of the code that were tried, each of which makes it fail: restrictive policies ignored; permissive ones ANDed;
polroles ignored; PUBLIC not among them; MEMBER in place of USAGE, for them and for owners; polcmd ignored; FORCE ignored;
owners not exempt; BYPASSRLS ignored; usage of the schema ignored; column privileges ignored; percent signs in policies not
doubled; another's claims; a column that the change lacks taken for null; the current row judged without the recorded one,
or without asking whether it is the same; names in closed schemas not noticed; old records whole for all, or where one
subscriber saw the old row; DELETEs not judged.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from tests.integration.judging import stages
from tests.servers.postgres import Database
from tests.streams import Streams

pytestmark = pytest.mark.versions

ROLES = [f"vis_{letter}" for letter in "abcdefgh"]
SUBJECTS = [f"{number}0000000-0000-0000-0000-000000000000" for number in (1, 2, 3)]
SCHEMAS = 45
"""How many random arrangements each plugin is tried on."""
COLUMNS = ["owner", "room", "level", "hidden", "body"]

# Expressions over the columns.
EXPRESSIONS = [
    "true",
    "false",
    "owner = auth.uid()",
    "owner = (select auth.uid())",
    "owner::text = current_setting('request.jwt.claims', true)::json ->> 'sub'",
    "owner = auth.uid() or level < 2",
    "owner = auth.uid() or not hidden",
    "not hidden",
    "level < 3",
    "room is null or room = 1",
    "exists (select from app.members m where m.room = docs.room and m.member = auth.uid())",
    "exists (select from app.open o where o.room = docs.room)",
    "room in (select o.room from app.open o)",
    "app.may_see(room, auth.jwt())",
    "current_user = 'vis_a' or auth.role() = 'vis_c'",
    "pg_has_role('vis_b', 'usage')",
    "auth.uid() is not null",
    "level = any (array[1, 2]) and owner is not null",
    "(select count(*) from app.open) > 1",
    "exists (select from app.friends f where f.room = docs.room and f.member = auth.uid())",
    "room in (select f.room from app.friends f where f.member = (select auth.uid())) and not hidden",
    "exists (select from app.friends f where f.member = auth.uid()) or owner = auth.uid()",
    "owner is distinct from auth.uid() and level >= 1",
    "docs.owner = '10000000-0000-0000-0000-000000000000' and docs.level between 0 and 2",
]
# For these the current row may have to stand in: a value too long to be in an UPDATE, a system column, names in a schema
# that the role may not use.
NEEDY = [
    "tableoid = 'app.docs'::regclass and (owner = auth.uid() or level = 1)",
    "app.visible(docs)",
    "app.visible(docs.*) or level = 0",
    "coalesce(body, '') <> 'secret'",
    "coalesce(body, '') not like '%{x}%'",
    "body ~ '[0-9]{2}%' or length(body) > 1000",
    "xmin::text <> '1' and level > 0",
    "private.rank(level) > 1",
    "private.joined(room)",
    "exists (select from private.members m where m.room = docs.room and m.member = auth.uid())",
]

SETUP = """
drop schema if exists app, private cascade;
create schema app;
create schema private;
create table app.members (room int, member uuid);
insert into app.members values (1, '10000000-0000-0000-0000-000000000000'),
  (2, '10000000-0000-0000-0000-000000000000'), (2, '20000000-0000-0000-0000-000000000000'),
  (3, '30000000-0000-0000-0000-000000000000');
alter table app.members enable row level security;
create policy own on app.members using (member = auth.uid());
create table private.members (like app.members);
insert into private.members table app.members;
alter table private.members enable row level security;
create policy own on private.members using (member = auth.uid());
create table app.friends (like app.members);
insert into app.friends table app.members;
create table app.open (room int);
insert into app.open values (1), (2);
create table app.docs (id int primary key, owner uuid, room int, level int, hidden bool not null, body text);
alter table app.docs alter body set storage external;
create function app.may_see(room int, claims jsonb) returns bool language sql stable
  as $$ select exists (select from app.members m where m.room = $1 and m.member::text = $2 ->> 'sub') $$;
create function app.visible(doc app.docs) returns bool language sql immutable as $$ select doc.level > 0 and not doc.hidden $$;
create function private.rank(int) returns int language sql immutable return $1;
create function private.joined(int) returns bool language plpgsql stable security definer
  as $$ begin return exists (select from private.members m where m.room = $1 and m.member = auth.uid()); end $$;
grant select on app.members, private.members, app.open, app.friends to public;
"""


@pytest.fixture
def roles(database: Database) -> Iterator[None]:
    for role in ROLES:
        database.execute(f"create role {role}")
    yield
    for role in ROLES:
        database.execute(f"drop owned by {role} cascade; drop role {role}")


def arrange(database: Database, dice: random.Random) -> tuple[bool, bool]:
    """Memberships, grants, owner, flags and policies. Gives whether policies may be needy, and old rows are known."""
    database.execute(SETUP)
    for role in ROLES:
        attributes = [dice.choice(["inherit", "noinherit"]), dice.choice(["nobypassrls"] * 6 + ["bypassrls"])]
        database.execute(f"alter role {role} {' '.join(attributes)}; revoke {', '.join(ROLES)} from {role}")
    for _ in range(dice.randrange(6)):
        member, group = sorted(dice.sample(ROLES, 2))  # sorted, so that there is no circle
        database.execute(f"grant {group} to {member}")
    everyone = dice.random()
    if everyone < 0.2:
        database.execute(f"grant select{dice.choice(['', ' (id)', ' (level, room)'])} on app.docs to public")
    for role in ROLES:
        if dice.random() < 0.9:
            database.execute(f"grant usage on schema app to {role}")
        if dice.random() < 0.3:
            database.execute(f"grant usage on schema private to {role}")
        grant = dice.random()
        if grant < 0.7:
            database.execute(f"grant select on app.docs to {role}")
        elif grant < 0.9:
            columns = ["id"] * (dice.random() < 0.8) + dice.sample(COLUMNS, 2)
            database.execute(f"grant select ({', '.join(columns)}) on app.docs to {role}")
    database.execute(f"alter table app.docs owner to {dice.choice(['postgres', dice.choice(ROLES)])}")
    if dice.random() < 0.9:
        database.execute("alter table app.docs enable row level security")
    if dice.random() < 0.3:
        database.execute("alter table app.docs force row level security")
    full = dice.random() < 0.5
    if full:
        database.execute("alter table app.docs replica identity full")
    needy = dice.random() < 0.5
    for number in range(dice.choice([0, 1, 2, 3, 3, 4, 4])):
        command = dice.choice(["all", "all", "select", "select", "select", "insert", "update", "delete"])
        target = dice.choice(["public", "public", dice.choice(ROLES), ", ".join(dice.sample(ROLES, 3))])
        expression = dice.choice(dice.choice([EXPRESSIONS, NEEDY]) if needy else EXPRESSIONS)
        clause = f"with check ({expression})" if command == "insert" else f"using ({expression})"
        kind = dice.choice(["permissive"] * 3 + ["restrictive"])
        database.execute(f"create policy p{number} on app.docs as {kind} for {command} to {target} {clause}")
    return needy, full


class Shown(msgspec.Struct):
    """What PostgreSQL shows one role under one subscriber's claims."""

    ids: set[int]
    columns: set[str]
    everything: bool
    """May select the whole table."""
    subject: bool
    """Row security applies."""


def shown(connection: psycopg.Connection[Any], role: str, claims: dict[str, Any]) -> Shown | None:
    """None: not even the key."""
    with connection.transaction(force_rollback=True):
        ((columns, everything),) = connection.execute(
            "select array(select attname::text from pg_attribute where attrelid = c.oid and attnum > 0"
            " and has_column_privilege(%s, attrelid, attnum, 'select')), has_table_privilege(%s, c.oid, 'select')"
            " from pg_class c where c.oid = 'app.docs'::regclass",
            (role, role),
        )
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
        try:
            ids = {number for (number,) in connection.execute("select id from app.docs")}
            ((subject,),) = connection.execute("select row_security_active('app.docs')")
        except psycopg.errors.InsufficientPrivilege:
            return None
        return Shown(ids, set(columns), everything, subject)


def inserted(dice: random.Random) -> list[tuple[Any, ...]]:
    return [
        (
            number,
            dice.choice([*SUBJECTS, None]),
            dice.choice([1, 2, 3, None]),
            dice.randrange(4),
            dice.random() < 0.3,
            dice.choice(["secret", "50% {x}", "{{x}}", "x" * 3000, None]),
        )
        for number in range(8)
    ]


UPDATED = {0, 2, 4, 6}
"""The ids of the rows that are updated after their insertion, all columns but the body."""


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_an_event_reaches_exactly_those_to_whom_the_row_is_shown(database: Database, plugin: str, roles: None) -> None:
    decided = seen = joined = 0
    with Streams(database, [plugin]) as streams, database.connect() as looking:
        for seed in range(SCHEMAS):
            dice = random.Random(f"{plugin} {seed}")
            needy, full = arrange(database, dice)
            database.execute("delete from realtime.subscription")
            who: dict[str, tuple[str, dict[str, Any]]] = {}
            for role in ROLES:
                for subject in dice.sample([*SUBJECTS, None], 3):
                    claims = {"role": role} | ({"sub": subject} if subject else {})
                    who[database.subscribe("app.docs", **claims)] = (role, claims)

            def look(who: dict[str, Any] = who) -> dict[str, Shown | None]:
                return {each: shown(looking, *whose) for each, whose in who.items()}

            streams.take(plugin)  # what has been so far is of no interest
            # Together and for each claims value by itself: all ways must give the same.
            with (
                stages(database, plugin, few=dice.choice([0, 64])) as wired,
                stages(database, plugin, join_from=None) as simple,
                database.connection.cursor() as cursor,
            ):
                cursor.executemany("insert into app.docs values (%s, %s, %s, %s, %s, %s)", inserted(dice))
                first = look()
                cursor.executemany(
                    "update app.docs set owner = %s, room = %s, level = %s, hidden = %s where id = %s",
                    [(*row[1:5], row[0]) for row in inserted(dice) if row[0] in UPDATED],
                )
                second = look()
                events = []
                for step in ("", "delete from app.docs"):
                    cursor.execute(step)
                    messages = streams.take(plugin)
                    made = wired.events(messages)
                    assert made == simple.events(messages), f"seed {seed}, {plugin}"
                    events += made
                joined += wired.tally.joined_rows

            got: dict[tuple[str, str], set[int]] = {}
            for event in events:
                assert not event.dead_letter, f"seed {seed}: {event.value.decode()}"
                value = json.loads(event.value)
                wal = value["wal"]
                before = [(first if wal["type"] == "UPDATE" else second)[each] for each in value["subscription_ids"]]
                for each, old in zip(value["subscription_ids"], before, strict=True):
                    place = f"seed {seed}, {plugin}, {who[each]}, {event.value.decode()}"
                    if value["errors"]:
                        assert second[each] is None, place
                        continue
                    if old is None:
                        assert wal["type"] == "DELETE", place  # for which there is no 401
                        continue
                    columns = {column["name"] for column in wal["columns"]}
                    assert columns == old.columns, place
                    number = (wal.get("record") or wal["old_record"])["id"]
                    got.setdefault((wal["type"], each), set()).add(number)
                    record = set(wal.get("record", columns))
                    assert record == columns or (record == columns - {"body"} and wal["type"] == "UPDATE"), place
                    if "old_record" in wal:
                        # Whole only where each of the event's subscribers saw the old row.
                        whole = full and all(
                            other is not None and (not other.subject or number in other.ids) for other in before
                        )
                        kept = set(wal["old_record"])
                        if needy and old.subject:
                            assert kept <= (columns if whole else {"id"}), place
                        else:
                            assert kept == (columns if whole else {"id"}), place
            for each, whose in who.items():
                place = f"seed {seed}, {plugin}, {whose}"
                one, two = first[each], second[each]
                if one is None or two is None:
                    assert ("INSERT", each) not in got, place
                    continue
                exact = not needy or not one.subject
                compare(got.get(("INSERT", each), set()), one.ids, exact, one.everything, UPDATED, place)
                compare(got.get(("UPDATE", each), set()), two.ids & UPDATED, exact, one.everything, set(), place)
                removed = got.get(("DELETE", each), set())
                if one.subject and not full:
                    assert removed == set(range(8)), place
                elif exact:
                    assert removed == two.ids, place
                seen += len(one.ids)
                decided += 8
    # Neither all shown nor all hidden: the comparison says something.
    assert decided * 0.1 < seen < decided * 0.9
    assert joined > decided * 0.05, "the join has had its part"


def compare(got: set[int], expected: set[int], exact: bool, everything: bool, changed: set[int], place: str) -> None:
    """Nobody gets what is not shown. Where the current row had to stand in, and it has changed or the role may not
    select all of it, some of what is shown may be missing."""
    if exact:
        assert got == expected, place
    else:
        assert got <= expected, place
        assert not everything or expected - got <= changed, place
