"""Row level security as a join decides what PostgreSQL itself decides, on random policies, rows and claims; and what could see
another's claims, or none, is not joined."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.joining import Joinable
from tests.integration.joined import Both
from tests.integration.test_visibility_property import EXPRESSIONS as PLAIN
from tests.integration.test_visibility_property import SETUP, SUBJECTS
from tests.servers.postgres import Database

pytestmark = pytest.mark.versions

ROLES = ["vis_a", "vis_b", "vis_c"]

MORE = """
create type app.mood as enum ('sad', 'glad');
create table app.teams (id int, room int, owner uuid);
insert into app.teams values (1, 1, '10000000-0000-0000-0000-000000000000'), (2, 2, '20000000-0000-0000-0000-000000000000'),
  (3, null, '10000000-0000-0000-0000-000000000000');
create table app.people (room int, member uuid, level int) partition by list (room);
create table app.people_1 partition of app.people for values in (1);
create table app.people_0 partition of app.people default;
insert into app.people values (1, '10000000-0000-0000-0000-000000000000', 1), (2, '20000000-0000-0000-0000-000000000000', 2),
  (2, '30000000-0000-0000-0000-000000000000', 3), (null, '10000000-0000-0000-0000-000000000000', 0);
alter table app.docs add tags text[], add mood app.mood, add at timestamptz default '2020-01-01', add "Odd %" text default 'x';
create function app.claim(name text) returns text language sql volatile set search_path = '' as $$ select auth.jwt() ->> name $$;
create function app.level() returns int stable return coalesce((auth.jwt() ->> 'level')::int, 0);
create function app.sub() returns uuid stable begin atomic
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid; end;
create function app.old_uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid $$;
grant select on all tables in schema app to public;
grant usage on schema app to public;
alter table app.docs enable row level security;
"""

# Each of these must be joinable.
JOINED = [
    *(each for each in PLAIN if "app.members" not in each and "app.may_see" not in each),
    "(select auth.uid()) in (select p.member from app.people p where p.room = docs.room)",
    "exists (select from app.people p where p.room = docs.room and p.member = auth.uid())",
    "exists (select from app.people p where p.room = docs.room and p.member = (select app.sub()) and p.level >= docs.level)",
    "room in (select p.room from app.people p where p.member = auth.uid())",
    "room in (select room from app.people where member = auth.uid() and level > docs.level)",
    "room in (select p.room from app.people p where p.room in (select t.room from app.teams t where t.owner = auth.uid()))",
    "room not in (select p.room from app.people p where p.member = auth.uid())",
    "room = any (array(select p.room from app.people p where p.member = auth.uid()))",
    "room >= all (select p.room from app.people p where p.member = auth.uid())",
    "(room, owner) in (select p.room, auth.uid() from app.people p)",
    "(room, level) in (select p.room, p.level from app.people p where p.member = auth.uid())",
    "not exists (select from app.people p where p.room = docs.room and p.member = auth.uid())",
    "not (owner = auth.uid() or level = 1)",
    "(owner = auth.uid()) is not true",
    "owner is distinct from auth.uid()",
    "owner is not distinct from auth.uid()",
    "case when auth.role() = 'vis_a' then owner = auth.uid() when hidden then false else level < app.level() end",
    "case app.level() when 1 then not hidden when level then true end",
    "coalesce(owner, auth.uid()) = auth.uid()",
    "nullif(owner, auth.uid()) is null",
    "level = any ((select array[app.level(), 2])::int[])",
    "room = any (array(select jsonb_array_elements_text(auth.jwt() -> 'rooms')::int))",
    "room in (select j::int from jsonb_array_elements_text(auth.jwt() -> 'rooms') j)",
    "(auth.jwt() -> 'rooms') @> to_jsonb(room)",
    "(auth.jwt() -> 'names') ? body",
    "body = any (string_to_array(app.claim('list'), ','))",
    "tags && array[auth.role(), app.claim('name')]",
    "app.claim('name') = any (tags)",
    "body like app.claim('name') || '%'",
    "body ilike '%' || lower(app.claim('name'))",
    "lower(body) = lower(auth.jwt() -> 'app_metadata' ->> 'name')",
    "(body collate \"C\") < app.claim('name')",
    "body < (app.claim('name') collate \"C\")",
    "body::varchar(3) = app.claim('name')::varchar(3)",
    "body::char(3) = app.claim('name')::char(3)",
    "mood::text = app.claim('mood') or mood = (auth.jwt() ->> 'mood')::app.mood",
    "at < now() - (app.claim('age'))::interval",
    "at::date >= (app.claim('since'))::date",
    "owner = app.old_uid() and level between 0 and app.level()",
    "greatest(level, app.level()) = level",
    "(select max(p.level) from app.people p where p.member = auth.uid()) > level",
    "(select count(*) filter (where p.member = auth.uid()) from app.people p) > level",
    "(select p.level from app.people p where p.member = auth.uid() order by p.level desc limit 1) >= level",
    "exists (select from app.people p join app.teams t using (room) where p.member = auth.uid() and t.room = docs.room)",
    "exists (select from app.people p left join app.teams t on t.room = p.room and t.owner = auth.uid() where t.id is null and p.room = docs.room)",
    "exists (select 1 from (select p.room as r, auth.uid() as u from app.people p) s where s.r = docs.room and s.u = docs.owner)",
    "room in (select t.room from app.teams t where t.owner = auth.uid() union select p.room from app.people p where p.member = auth.uid())",
    "room in (select distinct p.room from app.people p where p.member = auth.uid() group by p.room having count(*) > 0)",
    "exists (select from app.docs_2 docs where docs.room = level and docs.member = auth.uid())",
    "docs is not null or owner = auth.uid()",
    "to_jsonb(docs) ->> 'owner' = auth.jwt() ->> 'sub'",
    "\"Odd %\" = 'x' and body not like '%\\%%' and owner = auth.uid()",
    "auth.jwt() ->> 'sub' = '10000000-0000-0000-0000-000000000000'",
    "(auth.jwt() ->> 'admin')::bool",
    "(select (auth.jwt() ->> 'admin')::bool) or owner = (select auth.uid())",
    "extract(year from at) > app.level() and substring(body from 1 for 1) = 'x'",
    "current_user = auth.role() and session_user <> 'nobody' and current_date > at",
    "row(owner, level) = row(auth.uid(), 1)",
    "tags[1] = auth.role() or tags[app.level():] = '{b}'",
    "xpath_exists('/a', ('<' || app.claim('name') || '/>')::xml) and owner = auth.uid()",
]


def person(dice: random.Random, role: str) -> dict[str, Any]:
    claims = {
        "sub": [*SUBJECTS, None],
        "level": [0, 1, 2, "2", None],
        "rooms": [[], [1], [2, 3], [1, 2, 3]],
        "names": [[], ["secret", "x"], {"secret": 1}],
        "name": ["secret", "sec", "x", "b", "SECRET", "%", None],
        "mood": ["sad", "glad"],
        "list": ["secret,x", "", None],
        "admin": [True, False, None],
        "age": ["1 day", "100 years"],
        "since": ["2019-01-01", "2021-01-01"],
        "app_metadata": [{}, {"name": "Secret"}],
    }
    return {"role": role} | {name: dice.choice(values) for name, values in claims.items() if dice.random() < 0.8}


def rows(dice: random.Random) -> list[tuple[Any, ...]]:
    return [
        (
            number,
            dice.choice([*SUBJECTS, None]),
            dice.choice([1, 2, 3, None]),
            dice.randrange(4),
            dice.random() < 0.3,
            dice.choice(["secret", "50% {x}", "Secret", "x", "", None]),
            dice.choice([["a", "b"], ["vis_a", "secret"], [], None]),
            dice.choice(["sad", "glad", None]),
        )
        for number in range(10)
    ]


@pytest.fixture
def both(database: Database) -> Iterator[Both]:
    for role in ROLES:
        database.execute(f"create role {role}")
    database.execute(SETUP + MORE)
    database.execute("create table app.docs_2 (room int, member uuid); grant select on app.docs_2 to public")
    database.execute("insert into app.docs_2 select p.room, p.member from app.people p")
    made = Both(database)
    yield made
    made.close()
    for role in ROLES:
        database.execute(f"drop owned by {role} cascade; drop role {role}")


def fill(database: Database, dice: random.Random) -> None:
    database.execute("delete from app.docs")
    with database.connection.cursor() as cursor:
        cursor.executemany(
            "insert into app.docs (id, owner, room, level, hidden, body, tags, mood) values (%s, %s, %s, %s, %s, %s, %s, %s)",
            rows(dice),
        )


def compare(both: Both, join: Joinable, dice: random.Random, role: str, place: str) -> tuple[int, int]:
    """How many decisions there were, and how many of them showed a row."""
    everyone = [person(dice, role) for _ in range(6)]
    plain = [both.plain(role, claims) for claims in everyone]
    raising = [claims for claims, ids in zip(everyone, plain, strict=True) if ids is None]
    everyone = [claims for claims in everyone if claims not in raising]
    expected = [ids for ids in plain if ids is not None]
    if not everyone:
        return 0, 0
    joined = both.joined(join, role, everyone)
    if joined is None:  # one that raises makes all fall back
        return 0, 0
    for claims, shown, right in zip(everyone, joined, expected, strict=True):
        assert shown == right, f"{place}: {claims}, {join}"
    return 10 * len(everyone), sum(map(len, expected))


@pytest.mark.parametrize("start", range(4))
def test_each_policy_alone_shows_what_postgresql_shows(both: Both, start: int) -> None:
    decided = 0
    for number, expression in itertools.islice(enumerate(JOINED), start, None, 4):
        dice = random.Random(number)
        fill(both.database, dice)
        both.database.execute(f"create policy p on app.docs using ({expression})")
        for role in ROLES:
            join = both.joinable(role)
            assert isinstance(join, Joinable), f"{expression}: {join}"
            compared = [compare(both, join, dice, role, expression)[0] for _ in range(2)]
            decided += sum(compared)
            assert sum(compared), expression
        both.database.execute("drop policy p on app.docs")
    assert decided > 2000


@pytest.mark.parametrize("start", range(3))
def test_policies_together_show_what_postgresql_shows(both: Both, start: int) -> None:
    decided = seen = 0
    for seed in range(start * 25, start * 25 + 25):
        dice = random.Random(f"together {seed}")
        fill(both.database, dice)
        names = []
        for number in range(dice.choice([1, 2, 2, 3, 3, 4])):
            parts = [f"({dice.choice(JOINED)})" for _ in range(dice.choice([1, 1, 2, 3]))]
            expression = dice.choice([" or ", " and ", " or not "]).join(parts)
            kind = dice.choice(["permissive"] * 3 + ["restrictive"])
            target = dice.choice(["public", "public", dice.choice(ROLES)])
            both.database.execute(
                f"create policy p{number} on app.docs as {kind} for select to {target} using ({expression})"
            )
            names.append(f"p{number}")
        for role in ROLES:
            join = both.joinable(role)
            assert isinstance(join, Joinable), f"seed {seed}: {join}"
            counts = compare(both, join, dice, role, f"seed {seed}")
            decided, seen = decided + counts[0], seen + counts[1]
        for name in names:
            both.database.execute(f"drop policy {name} on app.docs")
    assert decided * 0.1 < seen < decided * 0.9
    assert decided > 1000
