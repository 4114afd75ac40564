"""Running: the original worker's line, the health endpoint, and how it ends."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.cluster import free_port
from tests.command import environment, program
from tests.servers.waiting import PATIENCE, wait_until

TRY_IT_OUT = """
create table book(id int primary key, title text);
insert into realtime.subscription(subscription_id, entity, claims)
select gen_random_uuid(), 'public.book', jsonb_build_object('role','postgres','email','o@r.com','sub',gen_random_uuid());
insert into book(id, title) values (1, 'Foo');
"""


@pytest.fixture
def worker(dsn: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The original worker's line on an empty database."""
    slot = dsn.rpartition("/")[2]
    query = "select from pg_replication_slots where slot_name = %s and active"
    line = [program("walrus"), f"--connection={dsn}", f"--slot={slot}"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()) as process,
    ):
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                wait_until(lambda: connection.execute(query, (slot,)).fetchone() is not None, "streaming")
            yield process
        finally:
            process.kill()


def test_the_original_workers_line_prints_the_event_of_the_try_it_out(
    worker: subprocess.Popen[str], dsn: str, tmp_path: Path
) -> None:
    # When the try-it-out runs, each statement by itself
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in TRY_IT_OUT.split(";")[:-1]:
            connection.execute(statement.encode())
        (subscription,) = connection.execute("select subscription_id::text from realtime.subscription").fetchone() or (
            "",
        )

    # Then its event is on stdout at once
    assert worker.stdout is not None
    event = json.loads(worker.stdout.readline())
    assert event["wal"].pop("commit_timestamp").endswith("Z")
    assert event == {
        "wal": {
            "schema": "public",
            "table": "book",
            "type": "INSERT",
            "columns": [{"name": "id", "type": "int4"}, {"name": "title", "type": "text"}],
            "record": {"id": 1, "title": "Foo"},
        },
        "is_rls_enabled": False,
        "subscription_ids": [subscription],
        "errors": [],
    }

    # And Ctrl-C ends it with 0, nothing more on stdout, and no row in the logs
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE) == 0
    assert worker.stdout.read() == ""
    log = (tmp_path / "log").read_text()
    assert "streaming" in log
    assert "Foo" not in log
    assert "Traceback" not in log


def status(port: int, path: str) -> int | None:
    """The HTTP status; None where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def test_with_a_config_probes_see_whether_it_lives_and_streams(bridge: Any, database: Any) -> None:
    port = free_port()

    process = bridge(
        config={
            "source": {"connection": database.dsn, "slot": database.slot},
            "sink": {"stdout": {}},
            "http": {"listen": f"127.0.0.1:{port}"},
            "log": {"format": "json"},
        }
    )

    process.wait_for(lambda: status(port, "/ready") == 200, "readiness")
    assert status(port, "/live") == 200
    assert process.stop() == 0
    assert all(json.loads(line)["level"] for line in process.stderr.splitlines())


def test_a_signal_before_streaming_ends_it_with_0(database: Any, tmp_path: Path) -> None:
    # Given a start that waits for the migrations, which somebody else is applying
    database.execute("drop schema walrus_bridge cascade")
    database.execute("select pg_advisory_lock(x'77616c727573'::bigint)")
    config = tmp_path / "bridge.yaml"
    config.write_text(
        f"source: {{connection: '{database.dsn}', slot: {database.slot}}}\nsink: {{stdout: {{}}}}\nhttp: {{listen: null}}\n"
    )
    line = [program(), "run", "--config", str(config)]
    waiting = "select pid from pg_stat_activity where datname = %s and wait_event_type = 'Lock'"
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            wait_until(lambda: database.execute(waiting, (database.name,)), "waiting for the lock")

            # When it is told to end
            process.terminate()
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()

    # Then it does, without a word of alarm
    assert process.returncode == 0
    assert "Traceback" not in stderr


def test_an_unexpected_error_says_that_it_is_a_bug(tmp_path: Path, walrus_bridge: Any, config_file: Any) -> None:
    # Given a broken installation
    (tmp_path / "confluent_kafka.py").write_text("raise RuntimeError('broken')")

    done = walrus_bridge("run", "--config", config_file("sink: {kafka: {}}"), PYTHONPATH=str(tmp_path))

    assert done.status == 1
    assert "Traceback" in done.stderr
    assert "This is a bug" in done.stderr
