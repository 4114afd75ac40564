"""A lock keeps row security from being asked; then limits hold back, a policy is asked one by one, and the broker stands still."""

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
import yaml

from bridge.errors import Exit
from tests.acceptance.runbooks.conftest import Desk
from tests.acceptance.test_streaming import BLOCKED
from tests.servers.postgres import Database
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitMQ

TABLES = """
create table member (room int, who uuid, primary key (room, who));
create table message (id serial primary key, room int not null, body text);
grant select on member, message to authenticated;
alter table message enable row level security;
create function is_member(which int) returns boolean language plpgsql stable as
  $$ begin return exists (select from member m where m.room = which and m.who = auth.uid()); end $$;
create policy members on message to authenticated using (is_member(room));
"""
LIMITS = {"limits": {"events_per_second": 5}}


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[Proxy]:
    made = Proxy(rabbitmq.port)
    yield made
    made.close()


def write(database: Database, rows: int) -> None:
    database.execute("insert into message (room, body) select 1, 'Foo' from generate_series(1, %s)", (rows,))


def metric(desk: Desk, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{desk.port}/metrics") as answer:
        found = re.search(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_lag_growing(desk: Desk, rabbitmq: RabbitMQ, proxy: Proxy) -> None:
    database = desk.database
    database.execute(TABLES)
    for _ in range(5):
        who = str(uuid.uuid4())
        database.execute("insert into member values (1, %s)", (who,))
        database.subscribe("message", "authenticated", sub=who)
    inbox: dict[str, Any] = {"name": f"{desk.prefix}inbox", "bindings": {f"{desk.prefix}public.message": "#"}}
    url = rabbitmq.url.replace(f":{rabbitmq.port}/", f":{proxy.port}/")
    settings = desk.settings({"rabbitmq": {"url": url, "queues": [inbox]}})
    running = desk.start({**settings, **LIMITS})
    write(database, 1)
    database.wait_until_confirmed()

    # The lock is there before the rows are judged: between two statements of a string nobody gets that far.
    with contextlib.closing(psycopg.connect(database.dsn, autocommit=True, application_name="deploy")) as locker:
        locker.execute(
            "begin; insert into message (room, body) select 1, 'Foo' from generate_series(1, 40);"
            " lock table message; commit; begin; lock table message"
        )
        locker.execute("alter table message add column edited_at timestamptz")
        running.wait_for(lambda: database.execute(BLOCKED, (database.name,)), "a wait for the lock")
        book = desk.book("lag-growing")
        book.bind("19589", str(locker.info.backend_pid))
        book.run(until="held back")

    running.wait_for(lambda: metric(desk, "walrus_bridge_held_back_seconds_total") > 0.5, "held back")
    book.run()
    book.found_in(running.stderr)
    assert yaml.safe_load(book.text()) == LIMITS
    assert running.stop() == Exit.OK
    running = desk.start(settings)

    write(database, 10)
    database.wait_until_confirmed()
    book.run()
    database.execute(book.text())
    write(database, 10)
    database.wait_until_confirmed()
    assert metric(desk, "walrus_bridge_row_security_joined_rows_total") > 0
    book.run(until="last ack")

    proxy.stall()
    write(database, 3)
    running.wait_for(lambda: metric(desk, "walrus_bridge_in_flight_events") == 3, "events in flight")
    book.run(until="spill")
    proxy.flow()
    database.wait_until_confirmed()
    running.wait_for(lambda: metric(desk, "walrus_bridge_lag_seconds") == 0, "no lag")
    book.run()
    book.finished()

    assert running.stop() == Exit.OK
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        rows = set()
        while (found := channel.basic_get(inbox["name"], auto_ack=True))[0] is not None:
            rows.add(json.loads(found[2])["wal"]["record"]["id"])
        channel.queue_delete(inbox["name"])
    assert rows == set(range(1, 65))
