"""/metrics of a running bridge: the numbers are those of what it does."""

import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.cluster import free_port
from bridge.errors import Exit
from bridge.lsn import parse_lsn
from tests.acceptance.test_streaming import config
from tests.servers.bridge import BridgeProcess
from tests.servers.postgres import Database

OWNERS = [f"00000000-0000-0000-0000-{number:012}" for number in range(5)]

SETUP = """
create function uid(number int) returns uuid language sql immutable
  return ('00000000-0000-0000-0000-' || lpad(number::text, 12, '0'))::uuid;
create table note (id int primary key, owner uuid);
create table secret (id int primary key, owner uuid);
create table odd (id int primary key);
create table gate ();
insert into gate default values;
grant select on note, secret, odd, gate to authenticated;
alter table note enable row level security;
alter table secret enable row level security;
alter table odd enable row level security;
create policy own on note using (owner = auth.uid());
create policy own on secret using (owner = auth.uid() and random() >= 0 and exists (select from gate));
create policy raises on odd using (1 / (id - id) = 1);
"""


class Metrics:
    def __init__(self, running: BridgeProcess, port: int) -> None:
        self._running, self._port = running, port

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value, where there is exactly one with these labels."""
        found = [value for has, value in self.all(name) if labels.items() <= has.items()]
        assert len(found) < 2
        return found[0] if found else None

    def all(self, name: str) -> list[tuple[dict[str, str], float]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [
            (each.labels, each.value)
            for family in families
            for each in family.samples
            if each.name == f"walrus_bridge_{name}"
        ]

    def wait(self, condition: Callable[[float], bool], name: str, **labels: str) -> None:
        def holds() -> bool:
            value = self(name, **labels)
            return value is not None and condition(value)

        self._running.wait_for(holds, f"{name} as expected")


@pytest.mark.versions
def test_a_running_bridge_tells_what_it_does(database: Database, bridge: Any) -> None:
    database.execute(SETUP)
    for owner in OWNERS:
        database.subscribe("note", role="authenticated", sub=owner)
        database.subscribe("secret", role="authenticated", sub=owner)
    database.subscribe("odd", role="authenticated", sub=OWNERS[0])
    port = free_port()
    settings = config(database, http={"listen": f"127.0.0.1:{port}"}, limits={"events_per_second": 10})
    settings["source"]["heartbeat"] = "1s"
    running = bridge(config=settings)
    running.wait_until_streaming()
    metrics = Metrics(running, port)

    # When one transaction's events go at the rate
    database.execute(
        "begin; insert into note select n, uid(n) from generate_series(0, 4) n; insert into odd values (1);"
        " insert into secret select n, uid(n) from generate_series(1, 2) n; commit"
    )
    running.wait_for_events(7)
    database.wait_until_confirmed()

    # Then they are counted, and how they were judged
    assert metrics("streaming") == 1
    assert metrics("events_total", schema="public", table="note") == 5
    assert metrics("events_total", schema="public", table="secret") == 2
    assert metrics.all("dead_letters_total") == [({"schema": "public", "table": "odd"}, 1)]
    assert 0.4 < (metrics("held_back_seconds_total") or 0) < 10
    assert (metrics("sent_bytes_total") or 0) > 7 * 100
    assert metrics("acknowledgement_age_seconds") is not None
    rows = {labels["table"]: count for labels, count in metrics.all("row_security_rows_total")}
    assert rows == {"note": 5, "secret": 2 * 5, "odd": 1}
    seconds = {labels["table"]: count for labels, count in metrics.all("row_security_seconds_total")}
    assert seconds.keys() == rows.keys()
    assert all(0 < each < 30 for each in seconds.values())
    judging = metrics("judging_seconds_total") or 0
    assert sum(seconds.values()) < judging < 30
    assert metrics("row_security_joined_rows_total") == 5
    assert metrics("row_security_single_decisions_total") == 2 * 5 + 1
    joined = {"schema": "public", "table": "note", "role": "authenticated", "way": "join", "reason": ""}
    ways = metrics.all("row_security_way")
    assert (joined, 1) in ways
    (single,) = [labels for labels, _ in ways if labels["table"] == "secret"]
    assert single["way"] == "one_by_one"
    assert "random" in single["reason"]
    assert len(ways) == 2
    assert (metrics("in_flight_events"), metrics("in_flight_bytes")) == (0, 0)

    # And what the slot makes the server keep is asked of it
    assert (metrics("slot_retained_bytes") or 0) > 0
    assert metrics.all("slot_safe_bytes") == []

    # And the position is the slot's
    before = parse_lsn(database.confirmed() or "")
    confirmed = metrics("confirmed_lsn")
    assert confirmed is not None
    assert before <= confirmed <= (metrics("received_lsn") or 0)
    running.wait_for(lambda: parse_lsn(database.confirmed() or "") >= confirmed, "the slot's position")

    # When a policy waits for a lock, there is no progress until it goes on
    with database.connect() as locking, locking.transaction():
        locking.execute("lock table gate")
        database.execute("insert into secret values (3, uid(3))")
        metrics.wait(lambda age: age > 2, "progress_age_seconds")
    running.wait_for_events(8)
    metrics.wait(lambda age: age < 2, "progress_age_seconds")
    assert (metrics("judging_seconds_total") or 0) > judging + 0.9
    # And idleness is none
    time.sleep(3)
    metrics.wait(lambda age: age < 2, "progress_age_seconds")

    # When the connection is lost, the numbers go on
    database.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", (database.slot,)
    )
    metrics.wait(lambda count: count == 1, "reconnects_total")
    metrics.wait(lambda streaming: streaming == 1, "streaming")
    assert metrics.all("row_security_way") == ways
    database.execute("insert into note values (5, uid(0))")
    running.wait_for_events(9)
    assert (metrics("events_total", table="note") or 0) >= 6
    assert running.stop() == Exit.OK


def test_acknowledgements_are_timed(database: Database, bridge: Any) -> None:
    """Of each batch the last transaction, where it still waits when the batch is sent: not every one does."""
    database.execute("create table free (id serial primary key)")
    database.subscribe("free")
    port = free_port()
    running = bridge(config=config(database, http={"listen": f"127.0.0.1:{port}"}))
    running.wait_until_streaming()
    metrics = Metrics(running, port)

    def timed() -> float:
        database.execute("insert into free default values")
        return sum(n for labels, n in metrics.all("acknowledgement_seconds_bucket") if labels["le"] == "+Inf")

    running.wait_for(lambda: timed() >= 3, "three that are timed")
    database.wait_until_confirmed()
    assert 0 < (metrics("acknowledgement_seconds_sum") or 0) < 30
    metrics.wait(lambda seconds: seconds == 0, "acknowledgement_wait_seconds")
