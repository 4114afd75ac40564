"""`walrus-bridge status` on a real server, with a bridge and without."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from bridge.cluster import free_port
from bridge.errors import Exit
from bridge.slot import create_slot
from tests.acceptance.test_streaming import config
from tests.command import Done, environment, program
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

pytestmark = pytest.mark.versions

Run = Callable[..., Done]
OWNERS = [f"00000000-0000-0000-0000-{number:012}" for number in range(5)]
SETUP = """
create table note (id int primary key, owner uuid);
create table "odd name" (id int primary key);
create table free (id int primary key);
grant select on note, "odd name", free to authenticated;
alter table note enable row level security;
alter table "odd name" enable row level security;
create policy own on note using (owner = auth.uid());
create policy raises on "odd name" using (1 / (id - id) = 1);
"""


def arranged(database: Database, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Subscriptions, and a configuration with a listener, and its file."""
    database.execute(SETUP)
    for owner in OWNERS:
        database.subscribe("note", role="authenticated", sub=owner)
    database.subscribe('"odd name"', role="authenticated", sub=OWNERS[0])
    database.subscribe("free", role="authenticated")
    settings = config(database, http={"listen": f"127.0.0.1:{free_port()}"})
    path = tmp_path / "status.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return settings, str(path)


def asked(walrus_bridge: Run, path: str) -> dict[str, Any]:
    done = walrus_bridge("status", "--config", path, "--json")
    assert done.status == Exit.OK, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_running_bridge(database: Database, bridge: Any, walrus_bridge: Run, tmp_path: Path) -> None:
    settings, path = arranged(database, tmp_path)
    running = bridge(config=settings)
    running.wait_until_streaming()
    database.execute(
        "insert into note select n, ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid from generate_series(0, 4) n"
    )
    database.execute('insert into "odd name" values (1)')
    running.wait_for_events(5)
    database.wait_until_confirmed()

    def settled() -> dict[str, Any]:
        found = asked(walrus_bridge, path)
        return (
            found if found["lag_seconds"] == 0 and found["bridge"]["last_acknowledgement_seconds"] is not None else {}
        )

    found = wait_until(settled, "all is delivered")

    slot, told = found["slot"], found["bridge"]
    assert (slot["name"], slot["plugin"], slot["wal_status"]) == (
        database.slot,
        settings["source"]["plugin"],
        "reserved",
    )
    assert slot["application"] == "walrus-bridge"
    assert slot["retained_bytes"] >= 0
    assert (slot["limit_bytes"], slot["safe_bytes"]) == (None, None)
    assert found["lag_bytes"] < 1 << 20
    assert (told["slot"], told["sink"], told["streaming"]) == (database.slot, "stdout", True)
    assert (told["in_flight_events"], told["in_flight_bytes"]) == (0, 0)
    assert told["events_per_second"] > 0
    assert {"schema": "public", "table": "note", "events": 5, "dead_letters": 0} in told["tables"]
    assert found["dead_letters"] == [{"schema": "public", "table": "odd name", "dead_letters": 1}]
    judged = {
        each["table"]: (each["role"], each["subscriptions"], each["claims"], each["judged"])
        for each in found["subscribers"]
    }
    assert judged == {
        "note": ("authenticated", 5, 5, "join"),
        "odd name": ("authenticated", 1, 1, "one_by_one"),
        "free": ("authenticated", 1, 1, "unrestricted"),
    }
    assert found["notes"] == ["1 dead letter since the bridge started"]

    # On one screen
    text = walrus_bridge("status", "--config", path).stdout
    assert "public.odd name 1 since the start" in text
    assert len(text.splitlines()) < 25

    # And when the bridge has gone
    assert running.stop() == Exit.OK
    found = asked(walrus_bridge, path)
    assert found["bridge"] is None
    assert "nothing answers at 127.0.0.1:" in found["bridge_problem"]
    assert any("nobody streams from the slot" in note for note in found["notes"])
    assert {each["judged"] for each in found["subscribers"]} == {"unknown", "one_by_one", "unrestricted"}


def test_lag_while_nothing_can_be_delivered(
    database: Database, bridge: Any, walrus_bridge: Run, tmp_path: Path
) -> None:
    settings, path = arranged(database, tmp_path)
    database.execute("create table gate (); insert into gate default values; grant select on gate to authenticated")
    database.execute("alter policy own on note using (owner = auth.uid() and exists (select from gate))")
    running = bridge(config=settings)
    running.wait_until_streaming()

    with database.connect() as locking, locking.transaction():
        locking.execute("lock table gate")
        database.execute("insert into note values (1, null)")

        def late() -> dict[str, Any]:
            found = asked(walrus_bridge, path)
            return found if (found["lag_seconds"] or 0) > 3 else {}

        found = wait_until(late, "a lag of three seconds")
        assert found["bridge"]["lag_bytes"] > 0
        assert found["lag_bytes"] > 0
        assert found["bridge"]["streaming"]
    wait_until(lambda: asked(walrus_bridge, path)["lag_seconds"] == 0, "no lag")


def test_the_original_workers_options(database: Database, walrus_bridge: Run) -> None:
    done = walrus_bridge("status", "--connection", database.dsn, "--slot", database.slot)
    assert done.status == Exit.OK
    assert f"slot           {database.slot}: not there" in done.stdout
    assert "not reachable: there is no http.listen to ask" in done.stdout
    assert "no subscriptions" in done.stdout

    create_slot(database.dsn, database.slot, database.plugins[0])
    done = walrus_bridge("status", "--connection", database.dsn, "--slot", database.slot, "--json")
    assert json.loads(done.stdout)["slot"]["active_pid"] is None


def test_an_empty_database_and_none_at_all(dsn: str, walrus_bridge: Run) -> None:
    done = walrus_bridge("status", "--connection", dsn)
    assert done.status == Exit.OK, done.stderr
    assert "no subscriptions" in done.stdout

    gone = psycopg.conninfo.make_conninfo(dsn, port=free_port())
    walrus_bridge("status", "--connection", gone).refused(Exit.SOURCE_UNREACHABLE, "cannot be reached")
    walrus_bridge("status", "--connection", gone, "--watch").refused(Exit.SOURCE_UNREACHABLE, "cannot be reached")


@pytest.mark.parametrize("seconds", ["0", "never", "nan"])
def test_a_watch_that_cannot_be(walrus_bridge: Run, seconds: str) -> None:
    assert walrus_bridge("status", "--watch", seconds).status == Exit.USAGE


def test_watching_until_ctrl_c(database: Database, tmp_path: Path) -> None:
    arguments = ["status", "--connection", database.dsn, "--slot", database.slot, "--json", "--watch", "0.1"]
    with subprocess.Popen(
        [program(), *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        before = json.loads(watching.stdout.readline())
        create_slot(database.dsn, database.slot, database.plugins[0])
        lines = iter(watching.stdout.readline, "")
        after = next(found for found in map(json.loads, lines) if found["slot"] is not None)
        # It goes on where the connection is lost
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()",
            (database.name,),
        )
        assert any("slot" in json.loads(next(lines)) for _ in range(20))
        os.kill(watching.pid, signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    assert before["slot"] is None
    assert after["slot"]["name"] == database.slot
    assert watching.returncode == Exit.OK, errors
    assert errors == ""
