"""The replication stream: START_REPLICATION, XLogData, keepalives and standby status updates.

The only user of psycopg.pq. Nothing here blocks once the stream has started, but for `close`. The messages are those
of https://www.postgresql.org/docs/current/protocol-replication.html
"""

import contextlib
import select
import struct
import time
from typing import Final

import msgspec
import psycopg
from psycopg import pq

from bridge.errors import BridgeError, SlotActive, SlotError, SourceRefused, SourceUnreachable
from bridge.lsn import Identity, format_lsn, parse_history, parse_lsn
from bridge.sql import FIXED_SETTINGS, connection_error, conninfo_with, later_settings, remedy

_KEEPALIVE = struct.Struct("!cQqB")  # 'k', end of WAL, clock, whether a reply is wanted
_XLOGDATA_HEADER = struct.Struct("!cQQq")  # 'w', start of this message's WAL, end of WAL, clock
_STATUS = struct.Struct("!cQQQqB")  # 'r', written, flushed, applied, clock, whether to reply
_EPOCH_2000_MICROSECONDS: Final = 946_684_800_000_000
_START_TIMEOUT_SECONDS: Final = 60.0
BUSY_MESSAGES: Final = 64
BUSY_WAIT_MILLISECONDS: Final = 1
"""A batch of so many messages waits so long for more of them."""
_CLOSE_TIMEOUT_SECONDS: Final = 5.0

# regclass and the like print qualified names only under an empty search_path.
_STREAM_SETTINGS = {
    name: value for name, value in FIXED_SETTINGS.items() if name not in {"row_security", "xmloption"}
} | {"search_path": ""}


class Batch(msgspec.Struct):
    """What the socket held."""

    data: list[tuple[int, bytes]]
    """(LSN of the XLogData header, the output plugin's bytes)"""
    keepalive: int | None = None
    """The end of WAL of the last keepalive that came after all of the data."""
    reply_wanted: bool = False
    more: bool = False
    """Reading stopped at its limit, not because the socket was empty."""


class ReplicationStream:
    """One walsender session. Raises SourceUnreachable when the connection is lost."""

    def __init__(self, conninfo: str) -> None:
        full = conninfo_with(conninfo, _STREAM_SETTINGS, replication="database")
        self._pgconn = pq.PGconn.connect(full.encode())
        if self._pgconn.status != pq.ConnStatus.OK:
            text = self._pgconn.get_error_message()
            self._pgconn.finish()
            raise connection_error(conninfo, text)
        self._sent = 0
        self._streaming = False
        self._poller = select.poll()
        self._skipping = ""
        """What the server said of a publication that it goes on without."""
        self._pgconn.notice_handler = self._noticed
        for name, value in later_settings(self._pgconn.server_version).items():
            result = self._execute(f"SET {name} = {_literal(value)}")
            if result.status != pq.ExecStatus.COMMAND_OK:
                refused = self._refusal(result, f"SET {name}")
                self._pgconn.finish()
                raise refused

    def fileno(self) -> int:
        return self._pgconn.socket

    @property
    def sent(self) -> int:
        """The position in the last status update: this stream has not moved the slot past it."""
        return self._sent

    @property
    def server_pid(self) -> int:
        """Of the walsender."""
        return self._pgconn.backend_pid

    def identify(self) -> Identity:
        row = self._rows("IDENTIFY_SYSTEM")[0]
        system_identifier, timeline = row[0], int(row[1])
        switches: tuple[tuple[int, int], ...] = ()
        if timeline > 1:
            history = self._rows(f"TIMELINE_HISTORY {timeline}")[0][1]
            switches = parse_history(history)
        return Identity(system_identifier, timeline, switches)

    def copy_slot(self, slot: str, name: str) -> int:
        """Make `name`, a temporary copy of `slot`: only this session can stream it, and it goes with it, however that
        ends. The LSN from which on it has changes. The slot may be in use meanwhile.

        Raises SlotError, SourceRefused.
        """
        command = f"SELECT lsn FROM pg_copy_logical_replication_slot({_literal(slot)}, {_literal(name)}, true)"
        return parse_lsn(self._rows(command, f"copying slot {slot}")[0][0])

    def drop_copy(self, name: str) -> None:
        """Drop what `copy_slot` has made, before it is streamed."""
        self._rows(f"SELECT pg_drop_replication_slot({_literal(name)})", f"dropping slot {name}")

    def start(self, slot: str, lsn: int, options: dict[str, str]) -> None:
        """Begin streaming at the later of `lsn` and the slot's confirmed position.

        Raises SlotActive, SlotError (no such slot, invalidated) or SourceRefused (plugin, publication, rights).
        """
        listed = ", ".join(f'"{name}" {_literal(value)}' for name, value in options.items())
        command = f"START_REPLICATION SLOT {_identifier(slot)} LOGICAL {format_lsn(lsn)} ({listed})"
        result = self._execute(command)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._refusal(result, f"START_REPLICATION of slot {slot}")
        self._pgconn.nonblocking = 1
        self._poller.register(self._pgconn.socket, select.POLLIN)
        self._streaming = True
        self._sent = lsn

    def read(self, messages: int, size: int) -> Batch:
        """Take what the socket holds, at most so many messages, and bytes give or take one message. Never blocks."""
        batch = Batch([])
        try:
            self._fill(batch, messages, size)
        except psycopg.Error as error:
            raise self._ended() from error
        if self._skipping:
            raise refusal("42704", self._skipping, "the replication stream")
        return batch

    def _fill(self, batch: Batch, messages: int, room: int) -> None:
        self._pgconn.consume_input()
        get, data = self._pgconn.get_copy_data, batch.data
        while True:
            if len(data) >= messages or room <= 0:
                batch.more = True
                return
            size, message = get(1)
            if size == 0:
                # What a query costs is shared by a batch: where much comes, it is worth a moment to let it be more.
                if not self._poller.poll(BUSY_WAIT_MILLISECONDS if len(data) >= BUSY_MESSAGES else 0):
                    return
                self._pgconn.consume_input()
                size, message = get(1)
                if size == 0:
                    return
            if size < 0:
                raise self._ended()
            room -= size
            if message[0] == 0x77:  # 'w', XLogData
                _, start, _, _ = _XLOGDATA_HEADER.unpack_from(message)
                data.append((start, bytes(message[25:])))
                batch.keepalive = None
            elif message[0] == 0x6B:  # 'k', keepalive
                _, end, _, reply = _KEEPALIVE.unpack(message)
                batch.keepalive = end
                batch.reply_wanted = batch.reply_wanted or bool(reply)

    def send_status(self, confirmed: int, *, ask: bool = False) -> None:
        """A standby status update: everything below `confirmed` is flushed. Never sends a lower one than before:
        PostgreSQL 14 and 16 would move the slot back. `ask`: have a keepalive in return, which says how far the server has
        read."""
        self._sent = max(self._sent, confirmed)
        now = time.time_ns() // 1000 - _EPOCH_2000_MICROSECONDS
        try:
            self._pgconn.put_copy_data(_STATUS.pack(b"r", self._sent, self._sent, self._sent, now, int(ask)))
            self._pgconn.flush()
        except psycopg.Error as error:
            raise SourceUnreachable(f"the replication stream broke: {error}") from error

    def abandon(self) -> None:
        """Close at once, where nothing depends on the last status update."""
        self._pgconn.finish()

    def close(self) -> None:
        """End the stream so that the last status update arrives: a bare close under load loses it."""
        if self._streaming and self._pgconn.status == pq.ConnStatus.OK:
            with contextlib.suppress(Exception):
                self._drain()
        self._pgconn.finish()

    def _drain(self) -> None:
        deadline = time.monotonic() + _CLOSE_TIMEOUT_SECONDS
        self._pgconn.put_copy_end()
        poller = select.poll()
        poller.register(self._pgconn.socket, select.POLLIN)
        while time.monotonic() < deadline:
            self._pgconn.flush()
            self._pgconn.consume_input()
            size = 1
            while size > 0:
                size, _ = self._pgconn.get_copy_data(1)
            if size < 0:
                return
            poller.poll(100)

    def _rows(self, command: str, doing: str = "") -> list[list[str]]:
        result = self._execute(command)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise self._refusal(result, doing or command.split(maxsplit=1)[0])
        return [
            [(result.get_value(row, column) or b"").decode() for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    def _execute(self, command: str) -> pq.abc.PGresult:
        """A blocking command before the stream starts."""
        return self._pgconn.exec_(command.encode())

    def _noticed(self, notice: pq.abc.PGresult) -> None:
        """From 18 on, a missing publication is a warning, and the changes are left out: an error as with the others."""
        where = notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) or b""
        if b"publication" in where.lower():
            text = notice.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"a publication is missing"
            self._skipping = text.decode(errors="replace")

    def _ended(self) -> BridgeError:
        result = self._pgconn.get_result()
        if result is not None and result.error_field(pq.DiagnosticField.SQLSTATE):
            return self._refusal(result, "the replication stream")
        text = " ".join(self._pgconn.get_error_message().split())
        return SourceUnreachable(f"the replication stream ended: {text or 'closed by the server'}")

    def _refusal(self, result: pq.abc.PGresult, doing: str) -> BridgeError:
        def field(which: pq.DiagnosticField) -> str:
            return (result.error_field(which) or b"").decode(errors="replace")

        state, text = field(pq.DiagnosticField.SQLSTATE), field(pq.DiagnosticField.MESSAGE_PRIMARY)
        if not state:
            text = " ".join(self._pgconn.get_error_message().split())
            return SourceUnreachable(f"{doing}: {text}")
        return refusal(state, text, doing)


def refusal(state: str, text: str, doing: str) -> BridgeError:
    """PostgreSQL's error to a replication command, as ours: whether waiting helps, and what to do. Pure."""
    what = f"{doing}: {text} (SQLSTATE {state})"
    if state == "55006":  # object_in_use
        return SlotActive(f"{what}. What to do: stop that client, or give this bridge a slot of its own")
    if state == "42704":  # undefined_object
        if "publication" in text:
            return SourceRefused(
                f"{what}. What to do: create the publication (`walrus-bridge check` prints the SQL). If this is said again,"
                f" there are changes from the time without it, which cannot be had: `walrus-bridge slot drop`, then start"
                f" anew"
            )
        return SlotError(f"{what}. What to do: `walrus-bridge slot create`; what was not streamed before is gone")
    if "all replication slots are in use" in text:
        return SourceRefused(f"{what}. What to do: drop an unused slot, or raise max_replication_slots")
    if "output_plugin_libraries" in text or "may not be used as an output plugin" in text:
        return SourceRefused(f"{what}. What to do: add it to output_plugin_libraries in postgresql.conf and reload")
    invalidated = state == "55000" and ("can no longer get changes" in text or "invalidated" in text)
    if invalidated or (state == "58P01" and "has already been removed" in text):
        return SlotError(
            f"{what}. What was not delivered before is gone from the slot. What to do: `walrus-bridge slot drop`, then"
            f" start anew"
        )
    if state[:2] in {"08", "40", "53"} or state[:3] == "57P" or state == "XX000":
        return SourceUnreachable(what)
    return SourceRefused(f"{what}{remedy(state)}")


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
