"""How long a start takes, and what a bridge at rest needs, by the number of subscriptions."""

import os
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.readers import bridge, cpu_seconds, drop, pg_recvlogical
from tests.benchmarks.world import World
from tests.servers.postgres import Database

TABLES = """
create table ping (id bigint generated always as identity primary key, at bigint not null);
create table watched (id bigint primary key, owner uuid);
"""
FIRST_SECONDS = 60.0


def run(world: World) -> list[dict[str, Any]]:
    database = world.database("startup")
    database.execute(TABLES)
    database.subscribe("ping")
    cells = [{"what": "pg_recvlogical", **_first_line(world, database, 0)}]
    before = 1
    for subscriptions in world.plan.subscriptions:
        world.say(f"start-up with {subscriptions} subscriptions")
        database.execute(
            "insert into realtime.subscription (subscription_id, entity, claims)"
            " select gen_random_uuid(), 'watched', jsonb_build_object('role', 'authenticated', 'sub', gen_random_uuid())"
            " from generate_series(%s::int, %s::int - 1)",
            (before, subscriptions),
        )
        before = subscriptions
        cells.append({"what": "bridge", "subscriptions": subscriptions, **_first_line(world, database, subscriptions)})
    reference = cells[0]["first_event_seconds"]
    return [{**cell, "ratio": cell["first_event_seconds"] / reference} for cell in cells]


def _first_line(world: World, database: Database, subscriptions: int) -> dict[str, Any]:
    """From the start of the process until it streams, and until the event of a waiting change is in the pipe; then what
    it needs while nothing happens. Without subscriptions it is pg_recvlogical's."""
    slot = f"bench_{world.number()}"
    database.execute("select pg_create_logical_replication_slot(%s, 'wal2json')", (slot,))
    database.execute("insert into ping (at) values (1)")
    out, into = os.pipe()
    try:
        if subscriptions:
            started = bridge(world.folder, database.dsn, slot, "wal2json", {"stdout": {}}, into)
        else:
            started = pg_recvlogical(database, database.dsn, slot, "wal2json", stdout=into)
        with started as reader:
            assert select.select([out], [], [], FIRST_SECONDS)[0], reader.log
            first = time.monotonic() - reader.started_at
            streaming = reader.streaming_at() - reader.started_at
            found = {"streaming_seconds": streaming, "first_event_seconds": first}
            return found | _at_rest(world, reader.process) if subscriptions else found
    finally:
        os.close(out)
        os.close(into)
        drop(database, slot)


def _at_rest(world: World, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    time.sleep(1)
    before = cpu_seconds(process.pid)
    time.sleep(world.plan.idle_seconds)
    spent = cpu_seconds(process.pid) - before
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    sizes = {name: int(kib) / 1024 for name, kib in re.findall(r"(VmRSS|VmHWM):\s+(\d+)", status)}
    return {
        "idle_cpu_percent": 100 * spent / world.plan.idle_seconds,
        "resident_mib": sizes["VmRSS"],
        "peak_mib": sizes["VmHWM"],
    }
