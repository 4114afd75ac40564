"""Changes of a test's own database, decoded by both plugins, without a bridge process."""

from collections.abc import Sequence
from typing import Self

from bridge.change import Change, Commit, Message
from bridge.lsn import parse_lsn
from bridge.pgoutput import PgOutputDecoder
from bridge.pgoutput import start_options as pgoutput_options
from bridge.sql import connect
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC, Codec
from bridge.wal2json import Wal2JsonDecoder
from bridge.wal2json import start_options as wal2json_options
from tests.servers.postgres import Database


class Streams:
    """A slot of each plugin, read by SQL; `take` gives what has come since the last time."""

    CODECS: dict[str, Codec] = {"wal2json": WAL2JSON_CODEC, "pgoutput": PGOUTPUT_CODEC}

    def __init__(self, database: Database, plugins: Sequence[str] = ("wal2json", "pgoutput")) -> None:
        self.connection = connect(database.dsn, {"search_path": ""})
        version = self.connection.info.server_version
        self._options = {"wal2json": wal2json_options(["*.*"], []), "pgoutput": pgoutput_options("everything", version)}
        self._decoders = {"wal2json": Wal2JsonDecoder(), "pgoutput": PgOutputDecoder()}
        self._slots = {plugin: f"{database.slot}_{plugin}" for plugin in plugins}
        database.execute("create publication everything for all tables")
        for plugin, slot in self._slots.items():
            database.execute("select pg_create_logical_replication_slot(%s, %s)", (slot, plugin))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def raw(self, plugin: str) -> list[tuple[int, bytes]]:
        """(LSN, message) as the plugin wrote them."""
        flat = [text for option in self._options[plugin].items() for text in option]
        rows = self.connection.execute(
            "select lsn::text, data from pg_logical_slot_get_binary_changes(%s, null, null, variadic %s)"
            if plugin == "pgoutput"
            else "select lsn::text, convert_to(data, 'UTF8') from pg_logical_slot_get_changes(%s, null, null, variadic %s)",
            (self._slots[plugin], flat),
        ).fetchall()
        return [(parse_lsn(lsn), bytes(data)) for lsn, data in rows]

    def take(self, plugin: str) -> list[Message]:
        return [message for lsn, data in self.raw(plugin) for message in self._decoders[plugin].decode(lsn, data)]

    def changes(self, plugin: str) -> list[Change]:
        return [message for message in self.take(plugin) if isinstance(message, Change)]

    def commits(self, plugin: str) -> list[Commit]:
        return [message for message in self.take(plugin) if isinstance(message, Commit)]
