"""What could see another's claims, or nobody's, is not joined, however it hides; and what changes is noticed.

Mutations of the code that were tried, each of which makes these tests or those in test_joining.py fail: current_setting of what
is no constant; settings of a function; defaults; functions that are not blind; aggregates of users'; of outer columns; RLS and
foreign children of tables; the catalog's doubts, conversions to json among them; versions, of what is shared and of single
tables, of an operator's function, of a schema's name, of what a function's body calls; restrictive policies left out; ANDs
split as ORs are; INs below a NOT, with a LIMIT, an aggregate or a hidden name made an EXISTS; a key's COLLATE, its
type or its length lost.
"""

from collections.abc import Iterator

import pytest

from bridge.joining import Joinable, NotJoinable
from tests.integration.joined import Both
from tests.servers.postgres import Database

pytestmark = pytest.mark.versions

SETUP = """
create role joiner;
create schema app;
create table app.members (room int, member uuid);
create type app.mood as enum ('sad', 'glad');
create type app.pair as (a int, b uuid);
create domain app.named as text;
create table app.docs (id int primary key, owner uuid, room int, body text, mood app.mood, pair app.pair, named app.named);
alter table app.docs enable row level security;
create function app.len(text) returns int language internal immutable strict as 'textlen';
create function app.eq(text, text) returns bool language internal immutable as 'texteq';
create operator app.=== (leftarg = text, rightarg = text, function = app.eq);
create function app.name() returns text language sql stable as $$ select auth.jwt() ->> 'name' $$;
create function app.reads(anyelement) returns bool language plpgsql immutable
  as $$ begin return $1::text = auth.jwt() ->> 'sub'; end $$;
create function app.both(uuid, uuid) returns bool language sql immutable return $1 = auth.uid() and $2 = $1;
create function app.likes(text, int) returns bool language plpgsql stable as $$ begin return auth.role() = $1; end $$;
grant usage on schema app to public;
grant select on all tables in schema app to public;
"""

# What there is besides, a policy's expression, and what its reason says.
TRAPS = [
    ("", "app.reads(owner)", "app.reads()"),
    ("", "app.likes(body, room)", "app.likes()"),
    ("", "random() < 2", "random()"),
    ("", "body = current_setting(body, true)", "current_setting()"),
    ("", "owner = auth.uid() and (clock_timestamp() > '2000-01-01')", "clock_timestamp()"),
    ("", "owner = gen_random_uuid()", "gen_random_uuid()"),
    ("", "set_config('request.jwt.claims', '{}', true) is not null", "set_config()"),
    (
        "create function app.get(name text) returns text language sql stable return current_setting(name, true)",
        "body = app.get('request.jwt.claims')",
        "app.get()",
    ),
    (
        "create function app.me(text) returns bool language sql immutable"
        " as $$ select $1 = current_setting('request.jwt.claims', true) $$",
        "app.me(body)",
        "app.me()",
    ),
    (
        "create view app.mine as select room from app.members where member = auth.uid(); grant select on app.mine to public",
        "room in (select m.room from app.mine m)",
        "app.mine, which is a view",
    ),
    (
        "create materialized view app.made as select room from app.members; grant select on app.made to public",
        "room in (select m.room from app.made m)",
        "app.made, which is a materialized view",
    ),
    ("alter table app.members enable row level security", "room in (select m.room from app.members m)", "app.members"),
    ("", "id in (select d.id from app.docs d)", "app.docs, which has row level security"),
    ("", "exists (select from pg_settings s where s.setting = body)", "pg_settings"),
    ("", "exists (select from pg_show_all_settings() s where s.setting = body)", "pg_show_all_settings()"),
    (
        "create foreign data wrapper w; create server s foreign data wrapper w;"
        " create foreign table app.far (room int) server s",
        "room in (select f.room from app.far f)",
        "app.far, which is a foreign table",
    ),
    (
        "create foreign data wrapper w; create server s foreign data wrapper w; create table app.kin () inherits (app.members);"
        " create foreign table app.far () inherits (app.kin) server s",
        "room in (select f.room from app.members f)",
        "app.members",
    ),
    (
        "create function public.lower(int) returns text language plpgsql as $$ begin return auth.role(); end $$",
        "lower(body) = 'x'",
        "public.lower() has the name",
    ),
    (
        "create function app.lower(text) returns text language plpgsql immutable as $$ begin return auth.role(); end $$",
        "app.lower(body) = 'x'",
        "app.lower()",
    ),
    (
        "create function public.current_setting(varchar) returns text language sql immutable return auth.role()",
        "body = current_setting('request.jwt.claims')",
        "current_setting()",
    ),
    ("create operator app.~~~ (leftarg = uuid, rightarg = uuid, function = app.both)", "owner operator(app.~~~) owner", "app.~~~"),
    (
        "create function public.eq(text, uuid) returns bool language plpgsql immutable as $$ begin return true; end $$;"
        " create operator public.= (leftarg = text, rightarg = uuid, function = public.eq)",
        "room = 1",
        "public.=",
    ),
    (
        "create function app.as_uuid(app.mood) returns uuid language plpgsql immutable as $$ begin return auth.uid(); end $$;"
        " create cast (app.mood as uuid) with function app.as_uuid(app.mood) as implicit",
        "owner = mood",
        "app.as_uuid",
    ),
    (
        "create function app.as_uuid(app.mood) returns uuid language plpgsql immutable as $$ begin return auth.uid(); end $$;"
        " create cast (app.mood as uuid) with function app.as_uuid(app.mood)",
        "owner = mood::uuid",
        "app.as_uuid",
    ),
    (
        "create function app.as_uuid(int) returns uuid language plpgsql immutable as $$ begin return auth.uid(); end $$;"
        " create cast (int as uuid) with function app.as_uuid(int) as assignment",
        "room = 1",
        "conversion from integer to uuid",
    ),
    (
        "create function app.as_json(app.mood) returns json language plpgsql immutable as $$ begin return '1'; end $$;"
        " create cast (app.mood as json) with function app.as_json(app.mood)",
        "to_jsonb(mood) = '1'",
        "conversion from app.mood to json",
    ),
    (
        "create domain app.mine as uuid check (value = auth.uid())",
        "owner::app.mine is not null",
        "app.mine",
    ),
    (
        "create domain app.mine as uuid check (value = auth.uid()); create domain app.over as app.mine",
        "owner::app.over is not null",
        "app.over",
    ),
    (
        "create domain app.mine as uuid check (value = auth.uid())",
        "('{' || body || '}')::app.mine[] is not null",
        "app.mine",
    ),
    (
        "create domain app.mine as uuid check (value = auth.uid()); create type app.holder as (mine app.mine)",
        "row(owner)::app.holder is not null",
        "app.holder",
    ),
    (
        "create domain app.mine as uuid check (value = auth.uid());"
        " create function app.takes(app.mine) returns bool language internal immutable as 'boolin'",
        "app.takes(owner)",
        "app.mine",
    ),
    ("", "jsonb_populate_record(docs, auth.jwt()) is not null", "jsonb_populate_record()"),
    ("", "body = any (array['a'::app.named])", "app.named"),
    ("", "(select count(auth.uid()) from app.members) > 1", "aggregate"),
    (
        "create function app.step(int, int) returns int language plpgsql as $$ begin return auth.jwt() ->> 'x'; end $$;"
        " create aggregate app.total(int) (sfunc = app.step, stype = int)",
        "(select app.total(m.room) from app.members m) = 1",
        "app.total()",
    ),
    (
        "create function app.opt(text, text default auth.role()) returns int language internal immutable as 'textlen'",
        "app.opt(body) = 1",
        "app.opt()",
    ),
    (
        "create function app.cmp(int, int) returns int language plpgsql immutable as $$ begin return 0; end $$;"
        " create operator class app.ops for type int using btree as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=,"
        " operator 5 >, function 1 app.cmp(int, int)",
        "room = 1",
        "ops",
    ),
    (
        "create function app.config(text) returns text language internal immutable as 'show_config_by_name'",
        "body = app.config('request.jwt.claims')",
        "app.config()",
    ),
    (
        "create function app.config(text, bool) returns text language internal immutable as 'show_config_by_name_missing_ok';"
        " create operator app.~~~ (leftarg = text, rightarg = bool, function = app.config)",
        "body = ('request.jwt.claims' operator(app.~~~) true)",
        "app.~~~",
    ),
    (
        "create function app.eq(json, json) returns bool language sql immutable return auth.role() = 'a';"
        " create operator app.== (leftarg = json, rightarg = json, function = app.eq);"
        " create operator family app.fam using hash; alter operator family app.fam using hash add operator 1 app.== (json, json)",
        "room = 1",
        "fam",
    ),
    ("", "table_to_xml('app.members', true, false, '')::text = body", "table_to_xml()"),
    ("", "xmin::text = body", "system columns"),
    ("", "exists (with m as (select room from app.members) select from m where m.room = docs.room)", "WITH"),
    ("", "exists (select from auth.uid() u where u = docs.owner)", "auth.uid()"),
    ("create table app._walrus_claims (room int)", "exists (select from app._walrus_claims c)", "_walrus_"),
    (
        "create function app.now() returns text language sql stable as $$ select now()::text $$",
        "body = app.now()",
        "app.now()",
    ),
    (
        "create function app.today() returns text language sql stable as $$ select ('today'::date)::text $$",
        "body = app.today()",
        "app.today()",
    ),
    (
        "create function app.who() returns text language sql stable as $$ select current_user::text $$",
        "body = app.who()",
        "app.who()",
    ),
    (
        "create function app.config() returns text language sql stable set request.jwt.claims = '{}' as $$ select auth.role() $$",
        "body = app.config()",
        "app.config()",
    ),
    (
        "create function auth.bare() returns text language sql stable set search_path = auth as $$ select role() $$",
        "body = auth.bare()",
        "auth.bare()",
    ),
]  # fmt: skip


@pytest.fixture
def both(database: Database) -> Iterator[Both]:
    database.execute(SETUP)
    made = Both(database)
    yield made
    made.close()
    database.execute("drop owned by joiner cascade; drop role joiner")


@pytest.mark.parametrize(("besides", "expression", "reason"), TRAPS, ids=range(len(TRAPS)))
def test_what_may_see_claims_is_not_joined(both: Both, besides: str, expression: str, reason: str) -> None:
    both.database.execute("create policy good on app.docs using (owner = auth.uid())")
    if besides:
        both.database.execute(besides)
    both.database.execute(f"create policy p on app.docs for select using ({expression})")

    found = both.joinable("joiner")

    assert isinstance(found, NotJoinable), found
    assert reason in found.reason


ALL = """owner = auth.uid() and app.len(body) = length(app.name()) and room in (select m.room from app.members m)
  and mood::text = 'sad' and owner = mood and body operator(app.===) body"""

# What happens between two batches.
CHANGES = [
    ("alter table app.members enable row level security", "app.members"),
    ("create or replace function auth.uid() returns uuid language plpgsql as $$ begin return null; end $$", "auth.uid()"),
    ("create or replace function auth.jwt() returns jsonb language sql as $$ select random()::text::jsonb $$", "auth.uid()"),
    ("create or replace function app.name() returns text language sql as $$ select now()::text $$", "app.name()"),
    ("alter function app.name set request.jwt.claims = '{}'", "app.name()"),
    ("alter function app.len(text) stable", "app.len()"),
    (
        "create or replace function app.as_uuid(app.mood) returns uuid language plpgsql immutable"
        " as $$ begin return auth.uid(); end $$",
        "app.as_uuid",
    ),
    ("create function app.length(text) returns int language plpgsql as $$ begin return 1; end $$", "app.name()|app.length()"),
    (
        "create operator public.= (leftarg = text, rightarg = int, function = app.likes)",
        "public.=",
    ),
    ("create type public.text as (a int)", "public.text"),
    (
        "create function app.j(app.mood) returns json language plpgsql immutable as $$ begin return '1'; end $$;"
        " create cast (app.mood as json) with function app.j(app.mood)",
        "to json",
    ),
    (
        "create foreign data wrapper w; create server s foreign data wrapper w; create table app.kin () inherits (app.members);"
        " create foreign table app.far () inherits (app.kin) server s",
        "app.members",
    ),
    (
        "drop table app.members cascade; create view app.members as select 1 as room; grant select on app.members to public;"
        " drop policy if exists p on app.docs; create policy p on app.docs using (room in (select m.room from app.members m))",
        "app.members, which is a view",
    ),
    ("alter function app.eq(text, text) volatile", "app.==="),
    ("alter policy p on app.docs using (random() < 1)", "random()"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=range(len(CHANGES)))
def test_a_change_between_two_batches_is_noticed(both: Both, change: str, reason: str) -> None:
    both.database.execute(
        "create function app.as_uuid(app.mood) returns uuid language internal immutable as 'uuid_in';"
        " create cast (app.mood as uuid) with function app.as_uuid(app.mood) as implicit"
    )
    both.database.execute(f"create policy p on app.docs using ({ALL})")
    before = both.joinable("joiner")
    assert isinstance(before, Joinable), before
    assert both.joinable("joiner") is before

    both.database.execute(change)

    after = both.joinable("joiner")
    assert isinstance(after, NotJoinable), after
    assert any(each in after.reason for each in reason.split("|")), after


def test_a_name_in_a_functions_text_that_comes_to_mean_another_is_noticed(both: Both) -> None:
    both.database.execute(
        "create schema other; create function other.jwt() returns jsonb language plpgsql as $$ begin return '{}'; end $$;"
        " create policy p on app.docs using (body = app.name())"
    )
    assert isinstance(both.joinable("joiner"), Joinable)

    both.database.execute("alter schema auth rename to old; alter schema other rename to auth")

    assert isinstance(both.joinable("joiner"), NotJoinable)


def test_what_has_become_safe_is_joined(both: Both) -> None:
    both.database.execute("alter table app.members enable row level security")
    both.database.execute("create policy p on app.docs using (room in (select m.room from app.members m))")
    assert isinstance(both.joinable("joiner"), NotJoinable)

    both.database.execute("alter table app.members disable row level security")

    assert isinstance(both.joinable("joiner"), Joinable)
