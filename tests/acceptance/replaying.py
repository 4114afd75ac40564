"""What the replay's tests share: brokers as consumers see them, and a slot that lags."""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ


class Arrived(msgspec.Struct, frozen=True):
    """A message as a consumer has it."""

    key: bytes | None
    """None at RabbitMQ, which has none."""
    value: dict[str, Any]
    headers: dict[str, str]

    @property
    def id(self) -> str:
        return self.headers["id"]

    @property
    def replayed(self) -> bool:
        return self.headers.get("replayed") == "true"

    @property
    def unmarked(self) -> "Arrived":
        """As it was the first time."""
        return msgspec.structs.replace(
            self, headers={name: value for name, value in self.headers.items() if name != "replayed"}
        )

    @property
    def row(self) -> Any:
        return self.value["wal"].get("record", self.value["wal"].get("old_record"))["id"]


class Broker:
    """A broker with a place for the table `note`."""

    def __init__(self, server: Kafka | RabbitMQ, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self._taken: list[Arrived] = []

    @property
    def sink(self) -> dict[str, Any]:
        if isinstance(self.server, Kafka):
            return {"kafka": {"prefix": self.prefix, "client": {"bootstrap.servers": self.server.servers}}}
        queue = {"name": f"{self.prefix}inbox", "bindings": {f"{self.prefix}public.note": "#"}}
        return {"rabbitmq": {"prefix": self.prefix, "url": self.server.url, "queues": [queue]}}

    def contents(self, table: str = "note") -> list[Arrived]:
        """All that has arrived."""
        if isinstance(self.server, Kafka):
            return [
                Arrived(
                    message.key(),
                    json.loads(message.value() or b""),
                    {name: bytes(value or b"").decode() for name, value in message.headers() or []},
                )
                for message in self.server.read(f"{self.prefix}public.{table}")
            ]
        with self.server.connect() as connection:
            channel = connection.channel()
            while (found := channel.basic_get(f"{self.prefix}inbox", auto_ack=True))[0] is not None:
                self._taken.append(Arrived(None, json.loads(found[2]), dict(found[1].headers)))
        return list(self._taken)


def config(database: Database, sink: dict[str, Any], plugin: str | None = None, **sections: Any) -> dict[str, Any]:
    """The publication, where the plugin wants one, is made."""
    plugin = plugin or database.plugins[0]
    source: dict[str, Any] = {"connection": database.dsn, "slot": database.slot, "plugin": plugin}
    if plugin == "pgoutput":
        database.execute("drop publication if exists everything")
        source["publication"] = "everything"
        database.execute("create publication everything for all tables")
    source |= sections.pop("source", {})
    return {"source": source, "sink": sink, "http": {"listen": None}, **sections}


def slots(database: Database) -> dict[str, tuple[str, str]]:
    """By name: restart and confirmed LSN."""
    rows = database.execute(
        "select slot_name, restart_lsn::text, confirmed_flush_lsn::text from pg_replication_slots"
        " where database = current_database()"
    )
    return {name: (restart, confirmed) for name, restart, confirmed in rows}


def positions(database: Database) -> list[tuple[Any, ...]]:
    """What the bridge keeps of its positions."""
    return database.execute("select slot_name, confirmed::text, ceiling::text from walrus_bridge.slot order by 1")


def keep_from_here(database: Database) -> None:
    """A lagging slot as `source.replay_window` makes it, that nobody moves."""
    database.execute("select pg_copy_logical_replication_slot(%s, %s)", (database.slot, f"{database.slot}_replay"))


Run = Callable[..., Any]
