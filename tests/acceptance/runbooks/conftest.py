"""The desk of the person on call: a database, a configuration, a bridge, and a shell for the runbook's commands."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from bridge import live
from bridge.cluster import free_port
from bridge.units import Address
from tests.acceptance.runbooks.book import Runbook, psql_variables, script
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import JARS, Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import BINARIES, RabbitMQ

KAFKA_TOOLS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
}


class Desk:
    def __init__(self, database: Database, folder: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]):
        self.database = database
        self.folder = folder
        self.prefix = prefix
        self.port = free_port()
        self._bridge = bridge
        self.tools = folder / "tools"
        database.slot = "realtime"

    def settings(self, sink: dict[str, Any], source: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        """A configuration as the runbooks' reader has it, whose topics or exchanges are this test's own."""
        return {
            "source": {"connection": self.database.dsn, "slot": self.database.slot, **(source or {})},
            "sink": {kind: {"prefix": self.prefix, **of_kind} for kind, of_kind in sink.items()},
            "http": {"listen": f"127.0.0.1:{self.port}"},
            **sections,
        }

    def start(self, settings: dict[str, Any]) -> BridgeProcess:
        """A bridge that streams; its configuration is `bridge.yaml` in the folder."""
        running = self._bridge(config=settings)
        running.wait_until_streaming()
        return running

    def told(self) -> live.Live | None:
        """What the bridge's listener tells; None: it has not answered in time."""
        with contextlib.suppress(live.NotReachable):
            return live.ask(Address.parse(f"127.0.0.1:{self.port}"))
        return None

    def lag(self) -> float | None:
        """In seconds; None: not known."""
        return told.lag_seconds if (told := self.told()) else None

    def has_kafka(self, server: Kafka) -> None:
        """Apache Kafka's own scripts."""
        for name, main in KAFKA_TOOLS.items():
            options = ["-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={server.home}/log4j2.properties"]
            script(self.tools, name, "java", *options, "-cp", f"{JARS}/*", main)

    def has_rabbitmq(self, server: RabbitMQ) -> None:
        """RabbitMQ's own scripts."""
        for name in ("rabbitmqctl", "rabbitmq-diagnostics"):
            script(self.tools, name, str(BINARIES / name), **server.environment)

    def book(self, name: str, database: Database | None = None) -> Runbook:
        """A runbook, whose psql reaches the database."""
        book = Runbook(name, self.folder, psql_variables((database or self.database).dsn), str(self.tools))
        book.bind("127.0.0.1:9187", f"127.0.0.1:{self.port}")
        for shown in ("public.", "dead-letter", "unrouted"):
            book.bind(f"realtime.{shown}", f"{self.prefix}{shown}")
        return book


@pytest.fixture
def desk(database: Database, tmp_path: pathlib.Path, prefix: str, bridge: Callable[..., BridgeProcess]) -> Desk:
    return Desk(database, tmp_path, prefix, bridge)
