"""What the tests share: real servers for the session, a database, a slot and a prefix for each test."""

import itertools
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from bridge import migrations
from bridge.cluster import Cluster, temporary_cluster
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka, KafkaCluster
from tests.servers.postgres import SUPABASE, Database, binaries_of, drop_database
from tests.servers.process import running
from tests.servers.rabbitmq import RabbitMQ

TEMPLATE = "template_bridge"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        metavar="VERSION",
        help="run on .cache/postgres/VERSION, which has pgoutput and no wal2json: the tests that need it are left out",
    )


def pytest_configure() -> None:
    # As Ctrl-C does, so that the fixtures end their servers. And where a shell started us in its background, with SIGINT
    # ignored, what we start must not inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --postgres, only the tests that a server's version may matter to, and that can do without wal2json."""
    if config.getoption("--postgres"):
        kept = [item for item in items if item.get_closest_marker("versions") and not _needs_wal2json(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _needs_wal2json(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    asked_for = parameters is not None and parameters.params.get("plugin") == "wal2json"
    return asked_for or item.get_closest_marker("wal2json") is not None


TOLD = "told"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line for the end of the run, whether or not the test passes."""
    return lambda line: request.node.user_properties.append((TOLD, line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for of_kind in terminalreporter.stats.values() for report in of_kind]
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "call":
            for name, line in report.user_properties:
                if name == TOLD:
                    terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def binaries(request: pytest.FixtureRequest) -> Iterator[pathlib.Path | None]:
    """The folder of the PostgreSQL programs; None: those of this machine."""
    version = request.config.getoption("--postgres")
    if version is None:
        yield None
        return
    with binaries_of(version) as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(binaries: pathlib.Path | None) -> Iterator[Cluster]:
    """A PostgreSQL server."""
    with temporary_cluster(binaries) as running:
        yield running


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A database with the migrations applied, and what Supabase has besides; cloned for each test."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {TEMPLATE} template template0")
    with psycopg.connect(cluster.dsn(TEMPLATE), autocommit=True) as connection:
        connection.execute(SUPABASE)
    migrations.deploy(cluster.dsn(TEMPLATE))
    return TEMPLATE


def _made(cluster: Cluster, template: str) -> str:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
    return name


@pytest.fixture
def dsn(cluster: Cluster) -> Iterator[str]:
    """The connection of a superuser to an empty database of the test's own."""
    name = _made(cluster, "template0")
    yield cluster.dsn(name)
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        drop_database(admin, name)


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[Database]:
    """A database of the test's own with the migrations applied."""
    made = Database(cluster, _made(cluster, template))
    yield made
    made.remove()


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and exchanges that no other test has."""
    return f"t{next(_numbers)}."


@pytest.fixture
def bridge(tmp_path: pathlib.Path) -> Iterator[Callable[..., BridgeProcess]]:
    """Start the bridge as a process: `bridge(config={…})` or `bridge(arguments=("run", …))`. Killed at the end."""
    started: list[BridgeProcess] = []

    def start(**how: Any) -> BridgeProcess:
        started.append(BridgeProcess(tmp_path, **how))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """An Apache Kafka broker."""
    with running(Kafka) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three Apache Kafka brokers."""
    with running(KafkaCluster) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ broker."""
    with running(RabbitMQ) as server:
        yield server
