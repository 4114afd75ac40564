"""Random transactions on several tables, and the truth of what they committed."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import psycopg

from tests.torture.checker import Audiences, Op

KEYS = {"plain": ["id"], "secured": ["id"], "composite": ["a", "b"], "whole": ["id"]}
OWNERS = ("alice", "bob", "carol")
"""Carol subscribes to nothing."""
IDS = 400

SCHEMA = """
create role subscriber nologin noinherit;
grant usage on schema public to subscriber;
create table plain (id int primary key, body text);
create table secured (id int primary key, owner text, note text);
create table composite (a text, b int, long text, short text, primary key (a, b));
create table whole (id int primary key, owner text, note text);
alter table composite alter long set storage external;
alter table whole replica identity full;
grant select on plain, secured, composite, whole to subscriber;
alter table secured enable row level security;
alter table whole enable row level security;
create policy mine on secured for select using (owner = current_setting('request.jwt.claims', true)::jsonb ->> 'sub');
create policy mine on whole for select using (owner = current_setting('request.jwt.claims', true)::jsonb ->> 'sub');

create schema torture;
create sequence torture.number;
create sequence torture.block;
create table torture.truth (number bigint, xid bigint, relation text, kind text, old jsonb, new jsonb);
create function torture.note() returns trigger language plpgsql as $$
begin
    insert into torture.truth values (
        nextval('torture.number'), pg_current_xact_id()::text::bigint, tg_table_name, tg_op,
        case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
do $$
declare
    name text;
begin
    foreach name in array array['plain', 'secured', 'composite', 'whole'] loop
        execute format('create trigger note after insert or update or delete on %I for each row execute function torture.note()', name);
    end loop;
end $$;
"""

SUBSCRIPTIONS = {
    "plain for the owner": ("plain", "postgres", None, "{}"),
    "plain, small ids": ("plain", "subscriber", None, f'{{"(id,lt,{IDS // 2})"}}'),
    "composite": ("composite", "subscriber", None, "{}"),
    "secured for alice": ("secured", "subscriber", "alice", "{}"),
    "secured for bob": ("secured", "subscriber", "bob", "{}"),
    "whole for alice": ("whole", "subscriber", "alice", "{}"),
    "whole for bob": ("whole", "subscriber", "bob", "{}"),
}


def set_up(connection: psycopg.Connection) -> dict[str, str]:
    """The tables and the subscriptions; the latter's ids by name."""
    connection.execute(SCHEMA)
    ids = {}
    for name, (table, role, sub, filters) in SUBSCRIPTIONS.items():
        row = connection.execute(
            "insert into realtime.subscription (subscription_id, entity, claims, filters)"
            " values (gen_random_uuid(), %s::regclass, %s, %s::realtime.user_defined_filter[]) returning subscription_id::text",
            (table, psycopg.types.json.Jsonb({"role": role, "sub": sub}), filters),
        ).fetchone()
        assert row is not None
        ids[name] = row[0]
    return ids


def audiences_of(ids: dict[str, str]) -> Callable[[Op], Audiences]:
    """Who must get what, by the rules of the subscriptions above."""

    def found(op: Op) -> Audiences:
        def only(name: str) -> frozenset[str]:
            return frozenset({ids[name]})

        if op.table == "plain":
            small = only("plain, small ids") if op.key[0] < IDS // 2 else frozenset[str]()
            return {"postgres": only("plain for the owner"), "subscriber": small}
        if op.table == "composite":
            return {"subscriber": only("composite")}
        if op.table == "secured" and op.kind == "DELETE":
            # The row is gone and its old owner is not in the WAL: everyone gets the key.
            return {"subscriber": only("secured for alice") | only("secured for bob")}
        owner = ((op.old if op.kind == "DELETE" else op.new) or {})["owner"]
        return {"subscriber": frozenset() if owner == "carol" else only(f"{op.table} for {owner}")}

    return found


def truth(connection: psycopg.Connection) -> list[Op]:
    """All that was committed."""
    found = []
    rows = connection.execute("select number, xid, relation, kind, old, new from torture.truth")
    for number, xid, table, kind, old, new in rows:
        key = tuple((new or old)[name] for name in KEYS[table])
        found.append(Op(number, xid, table, kind, key, new, old))
    return found


class Session(threading.Thread):
    """Runs transactions until told to stop; where its connection is lost it makes another."""

    def __init__(self, dsn: str, seed: str, go: threading.Event, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._go = go
        self._dsn = dsn
        self._random = random.Random(seed)
        self._stop_asked = stop
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                try:
                    with psycopg.connect(self._dsn, connect_timeout=5) as connection:
                        self._work(connection)
                except psycopg.OperationalError:
                    self.counts["connections lost"] += 1
                    time.sleep(0.1)
        except BaseException as error:
            self.failure = error

    def _work(self, connection: psycopg.Connection) -> None:
        while not self._stop_asked.is_set():
            self._go.wait(10)
            try:
                self._transaction(connection)
            except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
                connection.rollback()
                self.counts["failed"] += 1
            self._stop_asked.wait(self._random.random() * 0.05)

    def _transaction(self, connection: psycopg.Connection) -> None:
        rng, execute = self._random, connection.execute
        kind = rng.choices(("plain", "savepoint", "aborted", "copy", "bulk"), weights=(60, 15, 10, 10, 0.5))[0]
        if kind == "copy":
            self._copy(connection, rng.randint(1, 60))
        elif kind == "bulk":
            self._bulk(connection)
        else:
            for _ in range(rng.randint(1, 6)):
                self._change(connection)
                if rng.random() < 0.1:
                    time.sleep(rng.random() * 0.03)
        if kind == "savepoint":
            execute("savepoint here")
            self._change(connection)
            self._change(connection)
            execute("rollback to savepoint here" if rng.random() < 0.7 else "release savepoint here")
            self._change(connection)
        if kind == "aborted":
            connection.rollback()
        else:
            connection.commit()
        self.counts[kind] += 1

    def _change(self, connection: psycopg.Connection) -> None:
        rng, execute = self._random, connection.execute
        table = rng.choice(list(KEYS))
        number, other = rng.randrange(IDS), rng.randrange(IDS)
        text = f"{rng.random():.12f}"
        what = rng.choices(("insert", "update", "delete", "key"), weights=(45, 30, 15, 10))[0]
        if table == "plain":
            if what == "insert":
                execute(
                    "insert into plain values (%s, %s) on conflict (id) do update set body = excluded.body",
                    (number, text),
                )
            elif what == "update":
                execute("update plain set body = %s where id between %s and %s", (text, number, number + 3))
            elif what == "delete":
                execute("delete from plain where id = %s", (number,))
            else:
                execute(
                    "update plain set id = %s, body = %s where id = %s and not exists (select from plain where id = %s)",
                    (other, text, number, other),
                )
        elif table == "composite":
            a, b = f"a{number % 20}", number % 7
            if what == "insert":
                long = f"{number:04d}" * rng.choice((1, 700, 2000))
                execute(
                    "insert into composite values (%s, %s, %s, %s) on conflict (a, b) do update set short = excluded.short",
                    (a, b, long, text),
                )
            elif what == "update":
                execute("update composite set short = %s where a = %s and b = %s", (text, a, b))
            elif what == "delete":
                execute("delete from composite where a = %s and b = %s", (a, b))
            else:
                execute("update composite set long = repeat(%s, 900), short = null where a = %s", (text[:4], a))
        else:
            owner = rng.choice(OWNERS)
            if what == "insert":
                execute(
                    f"insert into {table} values (%s, %s, %s) on conflict (id) do update set owner = excluded.owner",
                    (number, owner, text),
                )
            elif what == "delete":
                execute(f"delete from {table} where id = %s", (number,))
            else:
                execute(f"update {table} set note = %s, owner = %s where id = %s", (text, owner, number))

    def _copy(self, connection: psycopg.Connection, rows: int) -> None:
        """New ids, far above the others', so that they clash with nothing; several rows in one WAL record."""
        first = self._block(connection)
        with connection.cursor().copy("copy plain from stdin") as copy:
            for number in range(rows):
                copy.write_row((first + number, json.dumps({"copied": number})))

    def _block(self, connection: psycopg.Connection) -> int:
        """The first of 2,001 ids that nobody else uses."""
        row = connection.execute("select nextval('torture.block')").fetchone()
        assert row is not None
        return 1_000_000 + int(row[0]) * 2001

    def _bulk(self, connection: psycopg.Connection) -> None:
        first = self._block(connection)
        connection.execute(
            "insert into secured select %s + n, (array['alice', 'bob', 'carol'])[1 + n %% 3], 'bulk'"
            " from generate_series(1, 2000) n",
            (first,),
        )
        if self._random.random() < 0.5:
            connection.execute(
                "update secured set note = 'again' where id between %s and %s", (first + 1, first + 2000)
            )
