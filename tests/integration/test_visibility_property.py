"""Visibility: whatever the policies, an event reaches exactly the subscribers to whom PostgreSQL shows the row.

Random tables, roles, memberships, grants, policies, claims and rows; each audience is compared with what a plain SELECT
shows that role under those claims, and the columns with what it may select.

Mutations of the code that were tried, each of which makes it fail: restrictive policies ignored; permissive ones ANDed;
polroles ignored; MEMBER in place of USAGE for them; polcmd ignored; FORCE ignored; owners not exempt; BYPASSRLS ignored;
usage of the schema ignored; column privileges ignored; percent signs in policies not doubled; another's claims.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.integration.judging import stages
from tests.servers.postgres import Database
from tests.streams import Streams

pytestmark = pytest.mark.versions

ROLES = [f"vis_{letter}" for letter in "abcdefgh"]
SUBJECTS = ["a", "b", "c"]

# Expressions over the columns owner, room, level, hidden, body; f is a function, m a table of members with its own
# row security, o an open one.
EXPRESSIONS = [
    "true",
    "false",
    "owner = auth.jwt() ->> 'sub'",
    "owner = (select auth.jwt() ->> 'sub')",
    "not hidden",
    "level < 3",
    "room is null or room = 1",
    "exists (select from app.members m where m.room = docs.room and m.member = auth.jwt() ->> 'sub')",
    "exists (select from app.open o where o.room = docs.room)",
    "room in (select o.room from app.open o)",
    "app.may_see(room, auth.jwt())",
    "app.visible(docs)",
    "app.visible(docs.*) or level = 0",
    "current_user = 'vis_a'",
    "pg_has_role('vis_b', 'usage')",
    "tableoid = 'app.docs'::regclass",
    "coalesce(body, '') <> 'secret'",
    "coalesce(body, '') not like '%{x}%'",
    "body ~ '[0-9]{2}%'",
    "auth.jwt() ->> 'sub' is not null",
    "level = any (array[1, 2]) and owner is not null",
    "(select count(*) from app.open) > 1",
    "docs.owner = 'a' and docs.level between 0 and 2",
]

SETUP = """
create schema app;
create table app.members (room int, member text);
insert into app.members values (1, 'a'), (2, 'a'), (2, 'b'), (3, 'c');
alter table app.members enable row level security;
create policy own on app.members using (member = auth.jwt() ->> 'sub');
create table app.open (room int);
insert into app.open values (1), (2);
create table app.docs (id int primary key, owner text, room int, level int, hidden bool not null, body text);
create function app.may_see(room int, claims jsonb) returns bool language sql stable
  as $$ select exists (select from app.members m where m.room = $1 and m.member = $2 ->> 'sub') $$;
create function app.visible(doc app.docs) returns bool language sql immutable as $$ select doc.level > 0 and not doc.hidden $$;
"""


@pytest.fixture
def roles(database: Database) -> Iterator[None]:
    for role in ROLES:
        database.execute(f"create role {role}")
    yield
    for role in ROLES:
        database.execute(f"drop owned by {role} cascade; drop role {role}")


def arrange(database: Database, dice: random.Random) -> None:
    """Memberships, grants, owner, flags and policies."""
    database.execute("drop schema if exists app cascade")
    database.execute(SETUP)
    for role in ROLES:
        attributes = [dice.choice(["inherit", "noinherit"]), dice.choice(["nobypassrls"] * 6 + ["bypassrls"])]
        database.execute(f"alter role {role} {' '.join(attributes)}")
        for other in ROLES:
            database.execute(f"revoke {other} from {role}")
    for _ in range(dice.randrange(6)):
        member, group = sorted(dice.sample(ROLES, 2))  # sorted, so that there is no circle
        database.execute(f"grant {group} to {member}")
    for role in ROLES:
        if dice.random() < 0.9:
            database.execute(f"grant usage on schema app to {role}")
        grant = dice.random()
        if grant < 0.7:
            database.execute(f"grant select on app.docs to {role}")
        elif grant < 0.9:
            columns = ["id"] * (dice.random() < 0.8) + dice.sample(["owner", "room", "level", "hidden", "body"], 2)
            database.execute(f"grant select ({', '.join(columns)}) on app.docs to {role}")
    database.execute("grant select on app.members, app.open to public")
    database.execute(f"alter table app.docs owner to {dice.choice(['postgres', dice.choice(ROLES)])}")
    if dice.random() < 0.9:
        database.execute("alter table app.docs enable row level security")
    if dice.random() < 0.3:
        database.execute("alter table app.docs force row level security")
    for number in range(dice.randrange(5)):
        command = dice.choice(["all", "select", "select", "select", "insert", "update", "delete"])
        target = dice.choice(["public", dice.choice(ROLES), ", ".join(dice.sample(ROLES, 3))])
        expression = dice.choice(EXPRESSIONS)
        clause = f"with check ({expression})" if command == "insert" else f"using ({expression})"
        kind = dice.choice(["permissive", "permissive", "restrictive"])
        database.execute(f"create policy p{number} on app.docs as {kind} for {command} to {target} {clause}")


def rows(dice: random.Random) -> list[tuple[Any, ...]]:
    return [
        (
            number,
            dice.choice([*SUBJECTS, None]),
            dice.choice([1, 2, 3, None]),
            dice.randrange(4),
            dice.random() < 0.3,
            dice.choice(["secret", "50% {x}", "{{x}}", None]),
        )
        for number in range(8)
    ]


def shown(database: Database, role: str, claims: dict[str, Any]) -> tuple[set[int], set[str]] | None:
    """The ids of the rows, and the columns, that PostgreSQL shows; None: not even the key."""
    with psycopg.connect(database.dsn, autocommit=True) as connection, connection.transaction(force_rollback=True):
        columns = {
            name
            for (name,) in connection.execute(
                "select attname from pg_attribute where attrelid = 'app.docs'::regclass and attnum > 0"
                " and has_column_privilege(%s, attrelid, attnum, 'select')",
                (role,),
            )
        }
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
        try:
            return {number for (number,) in connection.execute("select id from app.docs")}, columns
        except psycopg.errors.InsufficientPrivilege:
            return None


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_an_event_reaches_exactly_those_to_whom_the_row_is_shown(database: Database, plugin: str, roles: None) -> None:
    decided = seen = 0
    with Streams(database, [plugin]) as streams:
        for seed in range(45):
            dice = random.Random(f"{plugin} {seed}")
            arrange(database, dice)
            database.execute("delete from realtime.subscription")
            who: dict[str, tuple[str, dict[str, Any]]] = {}
            for role in ROLES:
                for subject in dice.sample([*SUBJECTS, None], 2):
                    claims = {"role": role} | ({"sub": subject} if subject else {})
                    who[database.subscribe("app.docs", **claims)] = (role, claims)
            streams.take(plugin)  # what has been so far is of no interest
            with database.connection.cursor() as cursor:
                cursor.executemany("insert into app.docs values (%s, %s, %s, %s, %s, %s)", rows(dice))
            with stages(database, plugin) as wired:
                events = wired.events(streams.take(plugin))

            got: dict[str, set[int]] = {each: set() for each in who}
            refused: set[str] = set()
            columns: dict[str, set[str]] = {}
            for event in events:
                assert not event.dead_letter, f"seed {seed}: {event.value.decode()}"
                value = json.loads(event.value)
                for each in value["subscription_ids"]:
                    if value["errors"]:
                        refused.add(each)
                    else:
                        got[each].add(value["wal"]["record"]["id"])
                        columns[each] = {column["name"] for column in value["wal"]["columns"]}
                        assert set(value["wal"]["record"]) == columns[each]
            for each, (role, claims) in who.items():
                expected = shown(database, role, claims)
                place = f"seed {seed}, {plugin}, {role}, {claims}"
                assert (each in refused) is (expected is None), place
                if expected is not None:
                    assert got[each] == expected[0], place
                    assert columns.get(each, expected[1]) == expected[1], place
                    seen += len(expected[0])
                decided += 8
    # Neither all shown nor all hidden: the comparison says something.
    assert decided * 0.1 < seen < decided * 0.9
