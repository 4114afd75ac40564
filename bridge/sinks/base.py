"""The sink contract: what a place to send events to must do. One file per sink, one line in `sinks/__init__.py`.

A sink never blocks in `send`, never drops, and acknowledges only what the broker has acknowledged. It owns its
connection: once `open` has succeeded it reconnects by itself, for as long as it takes, and sends again what was not
acknowledged. The loop keeps calling `poll`; while the broker is away `send` says "full" and reading stops.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

import msgspec

from bridge.checkpoint import Ticket
from bridge.errors import NameRefused
from bridge.event import Event
from bridge.lsn import Identity


class Rejection(msgspec.Struct, frozen=True):
    """An event that this sink cannot deliver. Its ticket is still open: the loop sends others under the same ticket,
    then acknowledges the event and calls `replaced`."""

    event: Event
    ticket: Ticket
    reason: str
    too_large: bool
    """In parts or with smaller values it might be delivered: the loop tries that first, then a dead letter."""
    share: int | None = None
    """Where it is too large: how many of its subscription ids one message has room for (parts.py). None: unknown."""


class Position(msgspec.Struct, frozen=True):
    """How far the stream has come that a sink holds, by the sink's own account (exactly once)."""

    system_identifier: str
    timeline: int
    end_lsn: int
    """The end of a transaction: it and all before it are there, or had no events."""
    last_event: str
    """`Event.order` of the last event there; empty: none yet. It may be in the middle of a transaction."""

    @property
    def reached(self) -> int:
        """Past the start of the commit of the last event's transaction, which the server must hold too; 0: no event."""
        return int(self.last_event[:16], 16) + 1 if self.last_event else 0


class Sink(Protocol):
    forgets: ClassVar[bool] = False
    """`resume` forgets what is not yet there for good: its tickets and rejections count no more."""

    def open(self, tables: Iterable[tuple[str, str]]) -> list[NameRefused]:
        """Connect, and make what the subscribed tables (schema, name) and the dead letters need. Called once.

        Returns why some of the tables can have no destination: their events will be rejected. Blocks. Raises
        SinkUnreachable, or SinkRefused with what to do.
        """

    def advice(self) -> Sequence[tuple[str, str]]:
        """Once it is open: what should be otherwise at the broker though it works, each with what to do."""
        return ()

    def resume(self, identity: Identity) -> Position | None:
        """Before each start of the stream of that server: where it may go on. None: the sink has no such account.

        Blocks for seconds. Raises SinkUnreachable, SinkRefused.
        """
        return None

    def go_on_from(self, position: Position) -> None:
        """The account that `resume` gave is of another history than the server's, and the user accepts that: this one
        counts instead."""
        return

    def send(self, event: Event, ticket: Ticket) -> bool:
        """Take the event (calling ``ticket.sent``), or say False: full, poll and offer it again. Never blocks.

        Raises SinkRefused where the destination cannot be had (a topic that may not be created).
        """

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        """Drive the I/O for at most that long, acknowledge tickets, reconnect; what cannot be delivered.

        Raises SinkRefused for what cannot pass by waiting, SinkAborted. Errors in callbacks are latched and raised
        here.
        """

    def rejected(self) -> Sequence[Rejection]:
        """What `send` itself has found that cannot be delivered: asked for after it, so that what is sent in its place
        keeps the event's place. `poll` gives what is not asked for here. Cheap."""
        return ()

    def replaced(self, rejection: Rejection) -> None:
        """What takes a rejected event's place has been taken by `send`, all of it."""
        return

    def confirmable(self, lsn: int) -> int:
        """All events up to `lsn` have been acknowledged: up to where may the slot be confirmed?"""
        return lsn

    def fileno(self) -> int | None:
        """A socket whose readability means that `poll` has work; None where there is none (poll every 2 ms then)."""

    def close(self) -> None:
        """Leave the broker without waiting for anything."""
