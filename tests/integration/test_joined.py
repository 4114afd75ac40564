"""Row level security as a join decides as the simple way does, in the places where the two could part.

Each test arranges a table `app.docs (id, owner, room, body)` under row level security, lets rows arrive, and compares what
the join gives with what each claims value is given by itself, and with what a plain SELECT shows.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from psycopg import sql

from bridge.event import Event
from tests.integration.judging import Stages, stages
from tests.servers.postgres import Database
from tests.streams import Streams

pytestmark = pytest.mark.versions

SUBJECTS = [f"{number:08x}-0000-0000-0000-000000000000" for number in range(8)]
SETUP = """
create schema app;
create table app.docs (id int primary key, owner uuid, room int, body text);
alter table app.docs enable row level security;
create table app.members (room int, member uuid);
grant usage on schema app to public;
grant select on app.docs, app.members to public;
"""


class Both:
    """The stages, by a join and for each claims value by itself."""

    def __init__(self, joined: Stages, simple: Stages) -> None:
        self.joined, self.simple = joined, simple

    @property
    def rows(self) -> int:
        """How many rows the join has judged."""
        assert self.joined.joined is not None
        return self.joined.joined.rows

    @property
    def reasons(self) -> set[str | None]:
        """Why there was no join; None: there was one."""
        assert self.joined.joined is not None
        return set(self.joined.joined.ways.values())


class Audience:
    """A database with `app.docs`, and subscribers to it."""

    def __init__(self, database: Database, streams: Streams, plugin: str) -> None:
        self.database = database
        self.execute = database.execute
        self._streams = streams
        self._plugin = plugin
        self.who: dict[str, dict[str, Any]] = {}

    def subscribe(self, role: str = "anon", **claims: Any) -> str:
        made = self.database.subscribe("app.docs", role, **claims)
        self.who[made] = {"role": role, **claims}
        return made

    def policy(self, using: str, name: str = "reading") -> None:
        self.execute(f"create policy {name} on app.docs using ({using})")

    def insert(self, first: int = 0) -> None:
        """Sixteen rows, two for each of the subjects."""
        self.execute(
            "insert into app.docs select %s + n, (lpad((n %% 8)::text, 8, '0') || '-0000-0000-0000-000000000000')::uuid,"
            " n %% 3, 'body' from generate_series(0, 15) as n",
            (first,),
        )

    def shown(self) -> dict[str, set[int]]:
        """What a plain SELECT shows each subscriber."""
        found = {}
        with self.database.connect() as looking:
            for subscriber, claims in self.who.items():
                with looking.transaction(force_rollback=True):
                    looking.execute(sql.SQL("set local role {}").format(sql.Identifier(claims["role"])))
                    looking.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
                    found[subscriber] = {number for (number,) in looking.execute("select id from app.docs")}
        return found

    @contextlib.contextmanager
    def judged(self, *, few: int = 64, leave: bool = False, login: str | None = None) -> Iterator[Both]:
        """What is subscribed now; what has been so far is of no interest."""
        self._streams.take(self._plugin)
        with (
            stages(self.database, self._plugin, few=few, leave=leave, login=login) as joined,
            stages(self.database, self._plugin, join_from=None, leave=leave, login=login) as simple,
        ):
            yield Both(joined, simple)

    def events(self, both: Both) -> list[Event]:
        """Of what has happened since; both ways must make the same."""
        messages = self._streams.take(self._plugin)
        events = both.joined.events(messages)
        assert [each.value for each in events] == [each.value for each in both.simple.events(messages)]
        return events

    def given(self, both: Both) -> dict[str, set[int]]:
        """The ids of the rows that each subscriber hears of."""
        return given(self.events(both), self.who)


def given(events: Sequence[Event], who: Iterable[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {each: set() for each in who}
    for event in events:
        assert not event.dead_letter, event.value.decode()
        value = json.loads(event.value)
        for each in value["subscription_ids"]:
            found.setdefault(each, set()).add((value["wal"].get("record") or value["wal"]["old_record"])["id"])
    return found


@pytest.fixture
def audience(database: Database) -> Iterator[Audience]:
    database.execute(SETUP)
    plugin = database.plugins[-1]
    with Streams(database, [plugin]) as streams:
        yield Audience(database, streams, plugin)


@pytest.fixture
def roles(database: Database) -> Iterator[None]:
    """Two of a test's own; they may be gone in the end."""
    database.execute("create role joined_a; create role joined_b; grant joined_a to joined_b")
    yield
    for role in ("joined_a", "joined_b"):
        if database.execute("select 1 from pg_roles where rolname = %s", (role,)):
            database.execute(f"drop owned by {role}; drop role {role}")


OWNER = "owner = auth.uid()"


@pytest.mark.parametrize("few", [0, 64])
def test_a_join_gives_each_subscriber_what_a_select_shows(audience: Audience, few: int) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:5]:
        audience.subscribe(sub=subject)
    with audience.judged(few=few) as both:
        audience.insert()
        assert audience.given(both) == audience.shown()
        assert both.rows == 8, "rows that differ in what no policy reads are one"


# -- keys: what policies ask of the claims, evaluated once for each ----------------------------------------------------


def test_a_function_that_is_wrongly_labelled_immutable_gives_each_subscriber_its_own(audience: Audience) -> None:
    # PostgreSQL evaluates it when it plans, and so would keep the first subscriber's value for all.
    audience.execute("""
        create function app.uid() returns uuid language sql immutable
          as $$ select (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid $$""")
    audience.policy("owner = app.uid()")
    for subject in SUBJECTS[:5]:
        audience.subscribe(sub=subject)
    with audience.judged() as both:
        audience.insert()
        assert audience.given(both) == audience.shown()


def test_roles_that_swap_their_names_keep_their_own_subscribers_apart(audience: Audience, roles: None) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:5]:
        audience.subscribe("joined_a", sub=subject)
    others = [audience.subscribe("joined_b", sub=subject) for subject in SUBJECTS[3:]]
    with audience.judged() as both:
        audience.insert()
        assert audience.given(both) == audience.shown()
        audience.execute(
            "alter role joined_a rename to joined_c; alter role joined_b rename to joined_a;"
            " alter role joined_c rename to joined_b"
        )
        audience.insert(100)
        heard = audience.given(both)
        assert [heard[each] for each in others] == [{103, 111}, {104, 112}, {105, 113}, {106, 114}, {107, 115}]
        assert both.rows == 32


def test_a_role_may_be_dropped_and_made_again_meanwhile(audience: Audience, roles: None) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:4]:
        audience.subscribe("joined_b", sub=subject)
    with audience.judged() as both:
        audience.insert()
        assert audience.given(both) == audience.shown()
        audience.execute("delete from realtime.subscription; drop role joined_b; create role joined_b")
        audience.who.clear()
        for subject in SUBJECTS[4:]:
            audience.subscribe("joined_b", sub=subject)
        audience.events(both)
        audience.execute("delete from app.docs")
        audience.events(both)
        audience.insert(100)
        assert audience.given(both) == audience.shown()
        assert both.rows == 16


def test_a_login_whose_transactions_are_read_only_by_default_joins(audience: Audience) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:5]:
        audience.subscribe(sub=subject)
    name = audience.database.name
    audience.execute(f"alter database {name} set default_transaction_read_only = on")
    with audience.judged() as both:
        audience.insert()
        assert audience.given(both) == audience.shown()
        # The tables of claims are made again.
        audience.execute("alter function auth.uid() security definer")
        audience.execute("delete from app.docs")
        audience.events(both)
        audience.insert(100)
        assert audience.given(both) == audience.shown()
        assert both.rows == 16


def test_policies_see_the_same_settings_when_joined(audience: Audience) -> None:
    audience.policy("owner = auth.uid() and current_setting('statement_timeout') = '5s'")
    for subject in SUBJECTS[:5]:
        audience.subscribe(sub=subject)
    with audience.judged() as both:
        audience.insert()
        heard = audience.given(both)
        assert [len(ids) for ids in heard.values()] == [2] * 5
        assert both.rows == 8


# -- names -------------------------------------------------------------------------------------------------------------

# What quotes, formats, parameters and case do to a name; as long as a name may be.
NAME = """T"%s{x}%(y)'""" + "é" * 25


def test_any_names_will_do(audience: Audience) -> None:
    audience.execute(
        sql.SQL("""
            create schema {name};
            create domain {name}."int%s" as int;
            create table {name}.{name} ({name} {name}."int%s" primary key, owner uuid, "other%" json);
            create table {name}.members ({name} int, owner uuid);
            alter table {name}.{name} enable row level security;
            create policy {name} on {name}.{name} using ({name} > 0 and exists (select from {name}.members m
              where m.{name} = {name}.{name} and m.owner = auth.uid()));
            insert into {name}.members values (1, {one}), (2, {two});
            grant usage on schema {name} to public;
            grant select on {name}.{name}, {name}.members to public;
        """).format(name=sql.Identifier(NAME), one=SUBJECTS[1], two=SUBJECTS[2])
    )
    table = sql.Identifier(NAME, NAME).as_string()
    who = [audience.database.subscribe(table, "anon", sub=subject) for subject in SUBJECTS[:4]]
    # PostgreSQL compares and makes the JSON.
    audience.execute(
        "update realtime.subscription set filters = array[(%s, 'neq', '3')::realtime.user_defined_filter]", (NAME,)
    )
    with audience.judged() as both:
        audience.execute(
            sql.SQL("insert into {} select n, null, '{{}}' from generate_series(0, 3) as n").format(
                sql.Identifier(NAME, NAME)
            )
        )
        heard = [
            (json.loads(event.value)["wal"]["record"][NAME], json.loads(event.value)["subscription_ids"])
            for event in audience.events(both)
        ]
        assert heard == [(1, [who[1]]), (2, [who[2]])]
        assert both.rows == 3
