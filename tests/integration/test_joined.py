"""Row level security as a join decides as the simple way does, in the places where the two could part.

Each test arranges a table `app.docs (id, owner, room, body)` under row level security, lets rows arrive, and compares what
the join gives with what each claims value is given by itself, and with what a plain SELECT shows.
"""

import contextlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from bridge.change import Commit, Message
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
        return self.joined.tally.joined_rows

    @property
    def reasons(self) -> set[str | None]:
        """Why there was no join; None: there was one."""
        return set(self.joined.tally.ways.values())


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

    def messages(self) -> list[Message]:
        """What has happened since."""
        return self._streams.take(self._plugin)

    def events(self, both: Both) -> list[Event]:
        """Of what has happened since; both ways must make the same."""
        messages = self.messages()
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


def test_keys_follow_the_functions_that_they_call(audience: Audience) -> None:
    audience.execute("create function app.claim() returns text language sql stable return 'sub'")
    audience.execute("""create or replace function auth.uid() returns uuid language sql stable
      as $$ select (auth.jwt() ->> app.claim())::uuid $$""")
    audience.policy(OWNER)
    for subject in SUBJECTS[:4]:
        audience.subscribe(sub=subject, other=SUBJECTS[-1])
    with audience.judged() as both:
        for change in (
            "",
            "create or replace function app.claim() returns text language sql stable return 'other'",
            "create or replace function app.claim() returns text language sql stable return null",
            "create or replace function app.claim() returns text language plpgsql as $$ begin return 'sub'; end $$",
            "create or replace function app.claim() returns text language sql stable return 'sub'",
        ):
            audience.execute(f"delete from app.docs; {change}")
            audience.events(both)
            audience.insert()
            assert audience.given(both) == audience.shown()
        assert both.rows == 4 * 8, "all but the one in PL/pgSQL"


def test_what_a_policy_reads_may_change_its_nature(audience: Audience) -> None:
    audience.execute(f"insert into app.members values (1, '{SUBJECTS[1]}'), (2, '{SUBJECTS[2]}')")
    audience.policy("exists (select from app.members m where m.room = docs.room and m.member = auth.uid())")
    for subject in SUBJECTS[:4]:
        audience.subscribe(sub=subject)
    with audience.judged() as both:
        for change, rows in (
            ("", 3),
            ("alter table app.members enable row level security", 0),
            ("create policy few on app.members using (room = 2)", 0),
            ("alter table app.members disable row level security", 3),
            ("create table app.more (check (room = 0)) inherits (app.members)", 3),
            (f"insert into app.more values (0, '{SUBJECTS[3]}')", 3),
            ("alter table app.members rename to people", 3),
        ):
            audience.execute(f"delete from app.docs; {change}")
            audience.events(both)
            before = both.rows
            audience.insert()
            assert audience.given(both) == audience.shown(), change
            assert both.rows - before == rows, change


@pytest.mark.parametrize("right", ["temp", "no temp", "no execute"])
def test_a_login_of_its_own_judges(audience: Audience, right: str) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:4]:
        audience.subscribe(sub=subject)
    name = audience.database.name
    audience.execute("create role joined_login login noinherit; grant anon to joined_login")
    try:
        audience.execute(f"revoke temp on database {name} from public")
        if right != "no temp":
            audience.execute(f"grant temp on database {name} to joined_login")
        if right == "no execute":
            audience.execute("alter default privileges for role joined_login revoke execute on functions from public")
        with audience.judged(login="joined_login") as both:
            audience.insert()
            assert audience.given(both) == audience.shown()
            assert both.rows == (0 if right == "no temp" else 8)
    finally:
        audience.execute("drop owned by joined_login; drop role joined_login")


def test_a_policy_that_writes_to_the_claims_tables_changes_nothing(audience: Audience) -> None:
    audience.execute("""
        create table app.other (like app.docs including all);
        alter table app.other enable row level security;
        grant select on app.other to public;
        create function app.swap() returns bool language plpgsql as $$
          declare name text;
          begin
            perform set_config('role', 'none', true);
            for name in select relname from pg_class where relnamespace = pg_my_temp_schema() and relkind = 'r' loop
              execute format('delete from pg_temp.%I', name);
            end loop;
            return true;
          end $$;
        create policy swapping on app.other using (app.swap())""")
    audience.policy(OWNER)
    for subject in SUBJECTS[:4]:
        audience.subscribe(sub=subject)
        audience.database.subscribe("app.other", "anon", sub=subject)
    with audience.judged() as both:
        audience.insert()
        assert audience.given(both) == audience.shown()
        audience.execute("insert into app.other values (1); delete from app.docs")
        (letter, *_) = audience.events(both)
        assert letter.dead_letter
        assert b"or wrote to a temporary table" in letter.value
        audience.insert(100)
        assert audience.given(both) == audience.shown()
        assert both.rows == 16


# -- who is subscribed -------------------------------------------------------------------------------------------------

FILTERS = [
    "{}", '{"(id,eq,5)"}', '{"(room,eq,1)"}', '{"(room,neq,1)"}', r'{"(room,in,\"{0,2}\")"}', '{"(body,eq,x)"}',
    '{"(body,eq,x)","(room,eq,2)"}', f'{{"(owner,eq,{SUBJECTS[1]})"}}', '{"(body,like,x%)"}', '{"(room,is,null)"}',
    '{"(room,eq,01)"}', f'{{"(owner,eq,{SUBJECTS[1].upper()})"}}',
]  # fmt: skip


class Churn:
    """Random transactions of subscribers who come, change and go, and of rows."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._ids: list[int] = [0]

    def claims(self) -> Jsonb:
        choice = self._dice.choice
        subject = choice([*SUBJECTS, None])
        return Jsonb({"role": choice(["anon", "joined_a", "joined_b"]), "sub": subject, "n": self._dice.randrange(20)})

    def step(self, connection: psycopg.Connection[Any]) -> None:
        choice, number = self._dice.choice, self._dice.randrange
        match choice(["come"] * 20 + ["go"] * 9 + ["change"] * 5 + ["all go"] + ["row"] * 8 + ["no row"] * 4):
            case "come":
                self._ids += connection.execute(
                    "insert into realtime.subscription (subscription_id, entity, claims, filters, action_filter,"
                    " selected_columns) values (lpad(%s::text, 32, '0')::uuid, 'app.docs', %s,"
                    " %s::realtime.user_defined_filter[], %s, %s) on conflict do nothing returning id",
                    (number(40), self.claims(), choice(FILTERS), choice(["*", "*", "INSERT", "UPDATE", "DELETE"]),
                     choice([None, None, ["room"]])),
                ).fetchone() or ()  # fmt: skip
            case "go":
                connection.execute("delete from realtime.subscription where id = %s", (choice(self._ids),))
            case "change" if number(4) == 0:
                connection.execute("update realtime.subscription set id = default where id = %s", (choice(self._ids),))
            case "change":
                connection.execute(
                    "update realtime.subscription set claims = %s where id = %s", (self.claims(), choice(self._ids))
                )
            case "all go":
                connection.execute("truncate realtime.subscription restart identity")
            case "row":
                connection.execute(
                    "insert into app.docs values (%s, %s, %s, %s) on conflict (id) do update set owner = excluded.owner,"
                    " room = excluded.room",
                    (number(20), choice([*SUBJECTS[:4], None]), choice([0, 1, 2, None]), choice(["x", "xy", None])),
                )
            case _:
                connection.execute("delete from app.docs where id = %s", (number(20),))


@pytest.mark.parametrize("seed", range(3))
def test_who_is_subscribed_at_a_changes_place_in_the_stream_gets_it(audience: Audience, roles: None, seed: int) -> None:
    dice = random.Random(seed)
    churn = Churn(dice)
    audience.policy("owner = auth.uid() or room = 0 and auth.uid() is null")
    if seed:
        audience.execute("alter table app.docs replica identity full")
    made = 0
    with audience.judged(leave=bool(seed), few=3 * seed) as both, audience.database.connect() as connection:
        for _ in range(25):
            for _ in range(dice.randrange(1, 30)):
                with connection.transaction():
                    for _ in range(dice.choice([1, 1, 2, 6])):
                        churn.step(connection)
            # The join has them all at once, the simple way one transaction after the other.
            messages = audience.messages()
            one_by_one: list[Event] = []
            transaction: list[Message] = []
            for message in messages:
                transaction.append(message)
                if isinstance(message, Commit):
                    one_by_one += both.simple.events(transaction)
                    transaction = []
            events = both.joined.events(messages)
            assert [(each.id, each.value) for each in events] == [(each.id, each.value) for each in one_by_one]
            made += len(events)
    assert made > 20
    assert both.rows > 20


def test_a_subscription_that_took_another_id_is_one_still(audience: Audience) -> None:
    audience.policy(OWNER)
    for subject in SUBJECTS[:4]:
        audience.subscribe(sub=subject)
    with audience.judged() as both:
        audience.execute("update realtime.subscription set id = default")
        audience.insert()
        assert audience.given(both) == audience.shown()
        audience.execute("delete from realtime.subscription")
        audience.insert(100)
        assert audience.events(both) == []


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
