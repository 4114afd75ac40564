"""The servers of a run: each starts when it is first asked for, and all end with it."""

import contextlib
import functools
import pathlib
import sys
import tempfile
import time
from typing import Any, Self
from urllib.parse import quote

from bridge import migrations
from bridge.cluster import Cluster, temporary_cluster
from tests.benchmarks.plan import Plan
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.rabbitmq import RabbitMQ

# Nothing that starts by itself in the middle of a measurement.
SETTINGS = {"max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off", "shared_buffers": "256MB"}
PREFIX = "bench."


class WarmKafka(Kafka):
    """With the compiler that a broker has in production; the tests' one is for a quick start."""

    def _command(self, main: str, *arguments: str) -> list[str]:
        return [word for word in super()._command(main, *arguments) if word != "-XX:TieredStopAtLevel=1"]


class World:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._stack = contextlib.ExitStack()
        self.folder = pathlib.Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="walrus-bridge-bench-"))
        )
        self._began = time.monotonic()
        self._numbers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def say(self, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self._began:6.0f} s  {text}\n")
        sys.stderr.flush()

    def number(self) -> int:
        """One that no other slot, prefix or folder of this run has."""
        self._numbers += 1
        return self._numbers

    @functools.cached_property
    def cluster(self) -> Cluster:
        self.say("starting PostgreSQL")
        return self._stack.enter_context(temporary_cluster(settings=SETTINGS))

    @functools.cached_property
    def kafka(self) -> Kafka:
        self.say("starting Kafka")
        server = WarmKafka(self._home("kafka"), memory="1g")
        self._stack.callback(server.kill)
        server.start()
        return server

    @functools.cached_property
    def rabbitmq(self) -> RabbitMQ:
        self.say("starting RabbitMQ")
        server = RabbitMQ(self._home("rabbitmq"))
        self._stack.callback(server.end)
        server.start()
        return server

    def postgresql(self) -> str:
        """Its version."""
        with Database(self.cluster, "postgres").connection as connection:
            return connection.execute("show server_version").fetchone()[0].split()[0]  # type: ignore[index]

    def _home(self, name: str) -> pathlib.Path:
        home = self.folder / name
        home.mkdir()
        return home

    def database(self, name: str) -> Database:
        """A new one, migrations applied, with a publication for everything."""
        dsn = self.cluster.dsn(name)
        admin = Database(self.cluster, "postgres")
        admin.execute(f"create database {name} template template0")
        admin.connection.close()
        migrations.deploy(dsn)
        made = Database(self.cluster, name)
        self._stack.callback(made.connection.close)
        made.execute(SUPABASE)
        made.execute("create publication everything for all tables")
        return made

    def dsn(self, database: Database, transport: str) -> str:
        """By `TCP` or `unix`."""
        if transport == "TCP":
            return database.dsn
        folder = quote(self.cluster.socket_directory, safe="")
        return f"postgresql://postgres@/{database.name}?host={folder}&port={self.cluster.port}"

    def sink(self, name: str, prefix: str) -> dict[str, Any]:
        """The section of the bridge's config. RabbitMQ's queue for `queue_of(prefix)` takes all."""
        if name == "kafka":
            return {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": self.kafka.servers}}}
        if name == "rabbitmq":
            bindings = {f"{prefix}public.{table}": "#" for table in ("item", "ping", "guarded")}
            queues = [{"name": queue_of(prefix), "bindings": bindings}]
            return {"rabbitmq": {"prefix": prefix, "url": self.rabbitmq.url, "queues": queues}}
        return {"stdout": {}}


def queue_of(prefix: str) -> str:
    return f"{prefix}all"
