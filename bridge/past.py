"""The past of the stream: what a slot still keeps, read once more from a temporary copy of it.

A slot keeps every transaction whose commit record lies at or after its confirmed LSN. The bridge's own slot keeps what is
not delivered yet; the second one that `source.replay_window` makes (replay_window.py) keeps more. A copy is made on the
replication connection that streams it and goes with that, however it ends; neither slot moves, nor need they be idle.
"""

import contextlib
import select
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import psycopg

from bridge.change import Begin, Change, Commit, Message, Transaction
from bridge.errors import NotKept, SlotError, SourceRefused
from bridge.lsn import format_lsn, parse_lsn
from bridge.patterns import streams
from bridge.replication import ReplicationStream
from bridge.session import SourceSettings, make_decoder, start_options
from bridge.slot import Slot, find, second_slot
from bridge.sql import Connection, connect, describe, translate

RUNBOOK: Final = "docs/runbooks/replay.md"
_MESSAGES, _BYTES = 4000, 4 << 20
_STATUS_SECONDS: Final = 0.5


class Copy(msgspec.Struct, frozen=True):
    """A temporary copy of a slot."""

    name: str
    source: str
    """The slot that it is a copy of."""
    confirmed_lsn: int
    """It has every transaction whose commit LSN is not below this."""


class Stretch:
    """Which messages of a stream belong to the transactions with commit LSNs from `first` to `last`, both included. Pure."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.is_done = False
        """All of it has been seen."""
        self.transaction: Transaction | None = None
        """The one that is open, if it belongs to the stretch."""
        self.position = first
        """How far it has come: the newest LSN of a change or commit, or what the server has read."""

    def take(self, messages: Iterable[Message]) -> list[Message]:
        """The Begins, changes and Commits that belong to it."""
        taken: list[Message] = []
        for message in messages:
            if self.is_done:
                break
            if isinstance(message, Begin):
                lsn = message.transaction.commit_lsn
                self.is_done = lsn > self.last
                self.transaction = message.transaction if self.first <= lsn <= self.last else None
                if self.transaction is not None:
                    taken.append(message)
                else:
                    self._come_to(lsn)
            elif self.transaction is not None and isinstance(message, Change | Commit):
                taken.append(message)
                if isinstance(message, Commit):
                    self.transaction = None
                    self.is_done = message.end_lsn > self.last  # all later ones have later commit LSNs
                    self._come_to(message.end_lsn)
                else:
                    self._come_to(message.lsn)  # a large transaction takes its time
        return taken

    def reached(self, lsn: int) -> None:
        """The server says, outside of transactions, that it has read the WAL up to `lsn`."""
        self._come_to(lsn)
        self.is_done = self.is_done or lsn > self.last

    def _come_to(self, lsn: int) -> None:
        self.position = min(max(self.position, lsn), self.last)


class Past:
    """A stretch of the stream. Open it, then `read` whenever `fileno` is readable, or let `messages` wait for that."""

    def __init__(
        self,
        settings: SourceSettings,
        connection: Connection,
        stream: ReplicationStream,
        first: int | None = None,
        last: int | None = None,
        *,
        subscribed: Sequence[int] = (),
    ) -> None:
        """`stream`: a replication connection that is not streaming yet. `first` and `last` are commit LSNs, both included;
        None: the oldest that is kept, and all that is committed now. `subscribed`: OIDs of tables that a publication must
        have.

        Raises NotKept where `first` is older than what is kept; SlotError, SourceRefused, SourceUnreachable.
        """
        self._stream = stream
        self._decoder = make_decoder(settings)
        self._streams = streams(settings.include, settings.exclude)
        options = start_options(settings, connection, list(subscribed))
        end = wal_end(connection)
        for lsn in (first, last):
            if lsn is not None and lsn > end:
                raise SourceRefused(
                    f"{format_lsn(lsn)} has not been written yet: the server's WAL ends at {format_lsn(end)}. What to do: see"
                    " whether it is of another server; give an earlier LSN"
                )
        kept = kept_slots(connection, settings)
        copy = copied(stream, kept, first)
        if copy is None:
            assert first is not None
            raise not_kept(settings, f"what was committed at {format_lsn(first)}")
        self.copy = copy
        start = max(self.copy.confirmed_lsn, first or 0)
        # What ends here has been written whole, and nothing that starts here.
        self.stretch = Stretch(start, end - 1 if last is None else min(last, end - 1))
        stream.start(self.copy.name, start, options)

    def fileno(self) -> int:
        return self._stream.fileno()

    def read(self) -> list[Message]:
        """What the socket holds of it; never blocks. Begin, Change and Commit, in the order of the stream."""
        batch = self._stream.read(_MESSAGES, _BYTES)
        decode, streamed = self._decoder.decode, self._streams
        messages = self.stretch.take(
            message
            for lsn, payload in batch.data
            for message in decode(lsn, payload)
            if not isinstance(message, Change) or streamed(message.schema, message.table)
        )
        if batch.keepalive is not None and not self._decoder.in_transaction:
            self.stretch.reached(batch.keepalive)
        return messages

    def messages(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[Message]:
        """All of it, waiting for each; `on_wait` is called at least every half second."""
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        while True:
            yield from self.read()
            if self.stretch.is_done:
                return
            self._stream.send_status(self.stretch.first, ask=True)
            on_wait()
            poller.poll(_STATUS_SECONDS * 1000)


@contextlib.contextmanager
def open_past(settings: SourceSettings, first: int | None = None, last: int | None = None) -> Iterator[Past]:
    """A stretch on connections of its own. Raises what Past does."""
    with contextlib.closing(connect(settings.connection, {"search_path": ""})) as connection:
        stream = ReplicationStream(settings.connection)
        try:
            yield Past(settings, connection, stream, first, last)
        finally:
            stream.abandon()


def kept_slots(connection: Connection, settings: SourceSettings) -> list[Slot]:
    """The slots that can be copied, the one that reaches back least first. Raises SlotError where there is none."""
    try:
        found = [find(connection, name) for name in (settings.slot, second_slot(settings.slot))]
    except psycopg.Error as error:
        raise translate(error, f"reading slot {settings.slot}") from error
    usable = [slot for slot in found if slot is not None and _is_usable(slot, settings.plugin)]
    if not usable:
        raise SlotError(
            f"there is no slot {settings.slot} of plugin {settings.plugin} at {describe(settings.connection)} that can be"
            " read from. What to do: `walrus-bridge check` tells what is wrong"
        )
    return sorted(usable, key=lambda slot: -(slot.confirmed_lsn or 0))


def _is_usable(slot: Slot, plugin: str) -> bool:
    return (
        slot.plugin == plugin
        and slot.database == slot.current_database
        and slot.wal_status != "lost"
        and slot.confirmed_lsn is not None
    )


def copied(stream: ReplicationStream, kept: Sequence[Slot], first: int | None) -> Copy | None:
    """A copy of the slot that reaches back just far enough; None: none of them does. `first` None: of the oldest."""
    for slot in kept if first is not None else kept[-1:]:
        if first is not None and (slot.confirmed_lsn or 0) > first:
            continue
        name = f"walrus_bridge_copy_{uuid.uuid4().hex[:16]}"
        # It may have moved since it was looked at: only the copy itself stands still.
        confirmed = stream.copy_slot(slot.name, name)
        if first is None or confirmed <= first:
            return Copy(name, slot.name, confirmed)
        stream.drop_copy(name)
    return None


def wal_end(connection: Connection) -> int:
    """Up to where the server's WAL is on disk, and can be streamed."""
    try:
        row = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
    except psycopg.Error as error:
        raise translate(error, "asking for the end of the WAL") from error
    assert row is not None
    return parse_lsn(row[0])


def oldest_kept(settings: SourceSettings) -> tuple[int, Transaction | None]:
    """The LSN from which on everything is kept, and the first transaction after it that the stream has."""
    with open_past(settings) as past:
        first = next((each.transaction for each in past.messages() if isinstance(each, Begin)), None)
        return past.stretch.first, first


def not_kept(settings: SourceSettings, what: str) -> NotKept:
    """The error for `what` lies further back than any slot reaches: with what can be had instead."""
    lsn, first = oldest_kept(settings)
    if first is None:
        oldest = f"the oldest LSN is {format_lsn(lsn)}, and nothing has been committed since"
    else:
        oldest = f"the oldest is the transaction at {format_lsn(first.commit_lsn)}, committed {first.committed_at}"
    return NotKept(
        f"{what} cannot be replayed, the WAL is not kept any more: {oldest}. What to do: replay from there, and see {RUNBOOK}"
        " for the rest; source.replay_window keeps more in future"
    )
