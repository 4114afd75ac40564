"""A small shop whose bridge has something to show in each panel."""

import random
from typing import Any

from tests.servers.kafka import Kafka
from tests.servers.postgres import Database

SAFE = {"max_slot_wal_keep_size": "1GB"}
"""Of the server: without it a slot is never in danger, and that panel is empty."""
TABLES = """
create table message (id int primary key, owner uuid, body text);
create table reading (id int primary key, value float);
create table page (id int primary key, owner uuid, title text);
create table report (id int primary key, title text);
create function is_own(owner uuid) returns bool language sql stable as 'select owner = auth.uid()';
alter table message enable row level security;
alter table page enable row level security;
alter table report enable row level security;
grant select on message, page, report to authenticated;
create policy own on message to authenticated using (owner = (select auth.uid()));
create policy own on page to authenticated using (is_own(owner));
create policy by_level on report to authenticated using ((auth.jwt() ->> 'level')::int > 1);
"""
OWNERS = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(6)]


def set_up(database: Database) -> None:
    """One table that is judged by a join, one that is not, one without row level security, and one whose policy fails."""
    for statement in TABLES.strip().split(";\n"):
        database.execute(statement.rstrip(";\n"))
    for owner in OWNERS:
        database.subscribe("message", "authenticated", sub=owner)
        database.subscribe("page", "authenticated", sub=owner)
    database.subscribe("reading")
    database.subscribe("report", "authenticated", level="gold")


def config(database: Database, kafka: Kafka, prefix: str, port: int, **sections: Any) -> dict[str, Any]:
    return {
        "source": {"connection": database.dsn, "slot": database.slot, "heartbeat": "1s", "replay_window": "1MiB"},
        "sink": {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers}}},
        "http": {"listen": f"127.0.0.1:{port}"},
        **sections,
    }


class Shop:
    """Changes, each time of other rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._random = random.Random("shop")
        self._next = 0

    def write(self, messages: int = 0, readings: int = 0, pages: int = 0, reports: int = 0) -> None:
        for table, count, values in (
            ("message", messages, f"'{self._random.choice(OWNERS)}', repeat('Foo ', 20)"),
            ("reading", readings, "random() * 100"),
            ("page", pages, f"'{self._random.choice(OWNERS)}', 'Bar'"),
            ("report", reports, "'Baz'"),
        ):
            if count:
                first = self._next
                self._next += count
                self._database.execute(
                    f"insert into {table} select n, {values} from generate_series({first}, {first + count - 1}) n"
                )
