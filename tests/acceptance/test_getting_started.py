"""docs/getting-started.md as a newcomer follows it: each block of it is run."""

import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from bridge.cluster import free_port
from tests.acceptance.runbooks.book import Runbook, psql_variables
from tests.command import environment
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until


class Newcomer:
    def __init__(self, folder: pathlib.Path, dsn: str, bridge: Callable[..., BridgeProcess], page: Runbook) -> None:
        self.folder = folder
        self.dsn = dsn
        self.page = page
        self._bridge = bridge

    def start(self, command: str) -> BridgeProcess:
        """`walrus-bridge run …` in a terminal of its own, until it streams."""
        name, *arguments = shlex.split(command)
        assert (name, arguments[0]) == ("walrus-bridge", "run")
        path = str(self.folder / "bridge.yaml")
        arguments = [path if argument == "bridge.yaml" else argument for argument in arguments]
        running = self._bridge(arguments=tuple(arguments))
        running.wait_until_streaming()
        return running

    def configure(self, text: str, port: int) -> None:
        """Beside what the page says: a listener that nobody else has."""
        (self.folder / "bridge.yaml").write_text(text + f"\nhttp: {{listen: '127.0.0.1:{port}'}}\n")

    def sql(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements.split(";")[:-1]:  # each in a transaction of its own, as with psql
                connection.execute(statement.encode())

    def first_line_of(self, script: str) -> str:
        """What a Python script prints first; it would go on."""
        with subprocess.Popen(
            [sys.executable, "-u", "-c", script], cwd=self.folder, env=environment(), stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            running.kill()
        return line


@pytest.fixture
def newcomer(
    tmp_path: pathlib.Path, dsn: str, kafka: Kafka, rabbitmq: RabbitMQ, bridge: Callable[..., BridgeProcess]
) -> Iterator[Newcomer]:
    place = conninfo_to_dict(dsn)
    page = Runbook("../getting-started", tmp_path, psql_variables(dsn))
    page.bind("postgresql://postgres@localhost:5432/postgres", dsn)
    page.bind("localhost:5432/postgres", f"{place['host']}:{place['port']}/{place['dbname']}")
    page.bind("localhost:9092", kafka.servers)
    page.bind("amqp://guest:guest@localhost:5672/%2F", rabbitmq.url)
    yield Newcomer(tmp_path, dsn, bridge, page)
    admin = kafka.admin  # kept until it has answered
    for deleted in admin.delete_topics(["realtime.public.book", "realtime.dead-letter"]).values():
        deleted.result()
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        for queue in ("books", "realtime.dead-letter", "realtime.unrouted"):
            channel.queue_delete(queue)
        channel.exchange_delete("realtime.public.book")


def test_getting_started(newcomer: Newcomer) -> None:
    page, port = newcomer.page, free_port()
    page.bind("127.0.0.1:9187", f"127.0.0.1:{port}")
    assert "make demo" in page.text()  # run by test_cli_basics and test_package, as are the wheel and its needs
    assert "pip install walrus-bridge" in page.text()

    # First on stdout
    running = newcomer.start(page.text())
    newcomer.sql(page.text())
    (event,) = running.wait_for_events(1)
    assert event["wal"]["record"] == {"id": 1, "title": "Foo"}
    assert page.text().startswith('{"wal":{"schema":"public","table":"book","type":"INSERT",')
    assert running.stop() == 0

    # Then into Kafka
    newcomer.configure(page.text(), port)
    page.run()
    running = newcomer.start(page.text())
    page.run(until="tail")
    running.wait_for(lambda: "walrus_bridge_events_total{" in _metrics(port), "its event")
    wait_until(lambda: "walrus_bridge_in_flight_events 0.0" in _metrics(port), "its acknowledgement")
    page.run()
    assert '{"id":2} {"wal":{"schema":"public"' in newcomer.first_line_of(page.text())
    page.run()
    assert running.stop() == 0

    # Or into RabbitMQ
    newcomer.configure(page.text(), port)
    running = newcomer.start("walrus-bridge run --config bridge.yaml")
    script = page.text()
    declaring, consuming = script.split("for method")
    subprocess.run([sys.executable, "-c", declaring], env=environment(), check=True, timeout=30)
    newcomer.sql("insert into book(id, title) values (3, 'Baz');")
    assert "public.book.insert b'{" in newcomer.first_line_of(f"{declaring}for method{consuming}")
    assert running.stop() == 0

    # With pgoutput
    newcomer.sql(page.text())
    settings = yaml.safe_load(page.text())
    settings["source"]["connection"] = newcomer.dsn
    newcomer.configure(yaml.safe_dump(settings | {"sink": {"stdout": {}}}), port)
    running = newcomer.start("walrus-bridge run --config bridge.yaml")
    newcomer.sql("insert into book(id, title) values (4, 'Qux');")
    assert running.wait_for_events(1)[-1]["wal"]["record"] == {"id": 4, "title": "Qux"}
    assert running.stop() == 0
    page.finished()


def _metrics(port: int) -> str:
    address = f"http://127.0.0.1:{port}/metrics"
    return subprocess.run(["curl", "-s", address], capture_output=True, text=True, check=False, timeout=10).stdout
