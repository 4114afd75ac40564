"""`walrus-bridge demo`: the whole way on a temporary PostgreSQL. It needs the server's programs and nothing else."""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import click
import psycopg

from bridge.cluster import Cluster, temporary_cluster
from bridge.errors import BridgeError

TABLE = "create table book(id int primary key, title text)"
SUBSCRIPTION = """insert into realtime.subscription(subscription_id, entity, claims)
select gen_random_uuid(), 'public.book',
       jsonb_build_object('role', 'postgres', 'email', 'o@r.com', 'sub', gen_random_uuid())"""
CHANGE = "insert into book(id, title) values (1, 'Foo')"

_SECONDS = 60.0


def run_demo() -> None:
    """Raises BridgeError, with the bridge's own words, where a step fails."""
    _forget_other_work()
    steps = _Steps()
    steps.say("starting a temporary PostgreSQL")
    with temporary_cluster() as cluster, tempfile.TemporaryDirectory(prefix="walrus-bridge-demo-") as folder:
        steps.done(f"PostgreSQL runs on port {cluster.port}")
        steps.say(f"walrus-bridge run --connection={cluster.dsn()}")
        with _bridge(cluster, pathlib.Path(folder)) as (process, log):
            _wait_until_streaming(cluster, process, log)
            steps.done("migrations applied, slot made, streaming")
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                for statement in (TABLE, SUBSCRIPTION, CHANGE):
                    steps.say(statement)
                    connection.execute(statement.encode())
            event = _read_line(process, log)
            steps.done("the change came out as an event for its subscriber:")
            click.echo(json.dumps(json.loads(event), indent=2, ensure_ascii=False))
            _wait_until_confirmed(cluster, process, log)
            steps.done("printed, therefore confirmed: the slot has moved past it")
            _stop(process, log)
        steps.done("the bridge stopped cleanly")
    steps.done("all removed again")


def _forget_other_work() -> None:
    """Options and connections that the user has set in the environment are not for the demo."""
    for name in list(os.environ):
        if name.startswith(("WALRUS_BRIDGE_", "PG")) and name != "PG_BIN":
            del os.environ[name]


class _Steps:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        lines = text.split("\n")
        click.echo(click.style(f"{'':9}> {lines[0]}", dim=True))
        for line in lines[1:]:
            click.echo(click.style(f"{'':11}{line}", dim=True))

    def done(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._began:6.2f} s {text}")


@contextlib.contextmanager
def _bridge(cluster: Cluster, folder: pathlib.Path) -> Iterator[tuple[subprocess.Popen[bytes], pathlib.Path]]:
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "run", f"--connection={cluster.dsn()}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_streaming(cluster: Cluster, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    _wait(
        cluster,
        "select exists (select from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid"
        " where s.slot_name = 'realtime' and r.state = 'streaming')",
        process,
        log,
    )


def _wait_until_confirmed(cluster: Cluster, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    with psycopg.connect(cluster.dsn()) as connection:
        row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    _wait(cluster, f"select bool_and(confirmed_flush_lsn >= '{row[0]}') from pg_replication_slots", process, log)


def _wait(cluster: Cluster, query: str, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    end = time.monotonic() + _SECONDS
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        while connection.execute(query.encode()).fetchone() != (True,):
            if process.poll() is not None:
                raise _failed(f"the bridge ended with {process.returncode}", log)
            if time.monotonic() > end:
                raise _failed(f"the bridge does not stream after {_SECONDS:.0f} s", log)
            time.sleep(0.02)


def _read_line(process: subprocess.Popen[bytes], log: pathlib.Path) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _SECONDS)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise _failed("no event came", log)
    return line


def _stop(process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _failed(f"the bridge does not stop within {_SECONDS:.0f} s", log) from error
    if status:
        raise _failed(f"the bridge ended with {status}", log)


def _failed(what: str, log: pathlib.Path) -> BridgeError:
    return BridgeError(f"{what}. What it said:\n{log.read_text(errors='replace')}")
