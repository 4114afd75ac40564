"""Every error that the bridge raises itself, and the exit status that each ends the program with.

Driver errors are translated once, at the edge where they occur, keeping the cause. A message says what is wrong,
where, and what to do. Two families matter to the loop: what is `Transient` passes by waiting and is retried for as
long as it takes; everything else ends the program.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses. docs/commands.md explains each to operators."""

    OK = 0
    UNEXPECTED = 1
    """A bug: please report it."""
    USAGE = 2
    """The command line is wrong (click's own status)."""
    CONFIG = 3
    """The configuration is wrong: an unknown key, a wrong type, an undefined variable, …"""
    SOURCE_UNREACHABLE = 4
    """PostgreSQL cannot be reached before the first streaming."""
    SOURCE_REFUSED = 5
    """PostgreSQL can be reached but does not let us work: password, rights, wal_level, plugin, publication."""
    SLOT = 6
    """The slot is in use, of another plugin or database, lost, or was moved by someone else."""
    SINK_UNREACHABLE = 7
    """The broker cannot be reached before the first streaming."""
    SINK_REFUSED = 8
    """The broker can be reached but does not let us work: rights, a missing topic, a clash of names."""
    MIGRATION = 9
    """The migrations are not applied, or cannot be."""
    UNDELIVERED = 10
    """Stopped as asked, but the broker did not acknowledge in time. The position is unmoved; nothing is lost."""
    POISON = 11
    """A change can never succeed, and on_failure is stop."""
    CHECK_FAILED = 12
    """`walrus-bridge check` found an error."""
    GAP = 13
    """Changes may be missing between what was delivered and what the slot still holds."""
    NOT_KEPT = 14
    """What was to be replayed, or an LSN asked for, is older than what a slot keeps."""
    INCOMPLETE = 15
    """`walrus-bridge replay` was stopped before its end. The message has the command that goes on."""
    LETTERS_LEFT = 16
    """A dead letter could not be done with, or one that was named is not there."""


class BridgeError(Exception):
    """The root of all. The message is for an operator: what, where, what to do."""

    exit = Exit.UNEXPECTED


class ConfigError(BridgeError):
    exit = Exit.CONFIG


class Transient(BridgeError):
    """May pass by waiting: a lost connection, a restarting server. Retried once streaming has begun."""


class SourceUnreachable(Transient):
    exit = Exit.SOURCE_UNREACHABLE


class SlotActive(Transient):
    """Another client streams from the slot. Fatal at start; after a lost connection our own old walsender may
    hold it for a while."""

    exit = Exit.SLOT

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid
        """Of the walsender that holds it, where that is known."""


class InRecovery(Transient):
    """The server is a standby. Fatal at start, for it may stay one; after a lost connection it may be about to be
    promoted."""

    exit = Exit.SOURCE_REFUSED


class SourceRefused(BridgeError):
    exit = Exit.SOURCE_REFUSED


class SlotError(BridgeError):
    exit = Exit.SLOT


class GapError(BridgeError):
    exit = Exit.GAP


class NotKept(BridgeError):
    exit = Exit.NOT_KEPT


class Incomplete(BridgeError):
    exit = Exit.INCOMPLETE


class SinkUnreachable(Transient):
    exit = Exit.SINK_UNREACHABLE


class SinkAborted(Transient):
    """The sink has given up what it had not committed: stream it again from the sink's position (exactly once)."""

    exit = Exit.SINK_UNREACHABLE


class SinkRefused(BridgeError):
    exit = Exit.SINK_REFUSED


class NameRefused(SinkRefused):
    """A table's destination or routing key cannot be named so. Its events are poison; other tables go on."""


class MigrationError(BridgeError):
    exit = Exit.MIGRATION


class Undelivered(BridgeError):
    exit = Exit.UNDELIVERED


class PoisonError(BridgeError):
    exit = Exit.POISON


class CheckFailed(BridgeError):
    exit = Exit.CHECK_FAILED


class LettersLeft(BridgeError):
    exit = Exit.LETTERS_LEFT


class DecodeError(BridgeError):
    """The stream holds what the decoder does not understand. Never guessed at: the bridge stops."""

    exit = Exit.UNEXPECTED
