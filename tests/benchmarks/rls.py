"""Row level security: changes a second, and microseconds for a change and a decision, of the bridge as a whole (slot →
stdout → confirmed) and of one prepared query for each row and subscriber, as the original asks."""

from typing import Any

import msgspec

from tests.benchmarks import policies
from tests.benchmarks.original import FUNCTION, ask_each
from tests.benchmarks.policies import Policies
from tests.benchmarks.readers import bridge, drop, seconds_until_confirmed
from tests.benchmarks.world import World
from tests.servers.postgres import Database

SAMPLE_DECISIONS = 5_000
"""Of the original, for each cell."""
TRANSACTION_ROWS = 100


class _Value(msgspec.Struct):
    subscription_ids: list[str]


_decode = msgspec.json.Decoder(_Value).decode


def run(world: World) -> list[dict[str, Any]]:
    database = world.database("rls")
    database.execute(policies.TABLES)
    database.execute(FUNCTION)
    cells = []
    before = 0
    for subscribers in world.plan.subscribers:
        world.say(f"RLS: subscribing {subscribers}")
        policies.people(database, before, subscribers)
        before = subscribers
        cells += [_cell(world, database, policy, subscribers) for policy in policies.ALL]
    return cells


def _cell(world: World, database: Database, policy: Policies, subscribers: int) -> dict[str, Any]:
    policy.apply(database)
    cell: dict[str, Any] = {"policy": policy.name, "subscribers": subscribers}
    for rows in world.plan.row_steps:
        world.say(f"RLS: {policy.name}, {subscribers} subscribers, {rows} rows")
        seconds = _stream(world, database, policy, rows, subscribers)
        if seconds is None:
            cell.setdefault("capped_at_rows", rows)
            break
        cell |= {
            "rows": rows,
            "changes_per_second": rows / seconds,
            "us_per_change": seconds * 1e6 / rows,
            "us_per_decision": seconds * 1e6 / rows / subscribers,
        }
        if seconds > world.plan.enough_seconds:
            break
    original = ask_each(database, subscribers, SAMPLE_DECISIONS, world.plan.cap_seconds)
    if original is None:
        cell["original_capped"] = True
    else:
        cell["original_rows"] = original.rows
        cell["original_us_per_change"] = original.seconds * 1e6 / original.rows
        if "us_per_change" in cell:
            cell["ratio"] = cell["original_us_per_change"] / cell["us_per_change"]
    return cell


def _stream(world: World, database: Database, policy: Policies, rows: int, subscribers: int) -> float | None:
    """Seconds for these rows in a slot of their own; None: the cap. Checks that each went to as many as may see it."""
    slot = f"bench_{world.number()}"
    database.execute("truncate note")
    database.execute("select pg_create_logical_replication_slot(%s, 'wal2json')", (slot,))
    try:
        for first in range(1, rows + 1, TRANSACTION_ROWS):
            last = min(first + TRANSACTION_ROWS - 1, rows)
            database.execute("select make_notes(%s, %s, %s)", (first, last, subscribers))
        end = database.execute("select pg_current_wal_insert_lsn()::text")[0][0]
        output = world.folder / f"{slot}.out"
        with output.open("wb") as stdout:
            with bridge(world.folder, database.dsn, slot, "wal2json", {"stdout": {}}, stdout) as reader:
                seconds = seconds_until_confirmed(database, reader, slot, end, world.plan.cap_seconds)
        if seconds is not None:
            with output.open("rb") as lines:
                reached = sum(len(_decode(line).subscription_ids) for line in lines)
            expected = rows * min(policy.seen_by, subscribers)
            assert reached == expected, f"{policy.name}: {reached} deliveries instead of {expected}"
        output.unlink()
        return seconds
    finally:
        drop(database, slot)
