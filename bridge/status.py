"""`walrus-bridge status`: what the database and the running bridge say, put together.

Two sources: the database, as the source login sees it, and the bridge's own listener (`http.listen`). Where the bridge cannot
be asked, the database's part is shown and said to be all.
"""

import contextlib
import threading
import time
from typing import Final

import msgspec
import psycopg

from bridge import live, status_facts
from bridge.config import Config
from bridge.errors import BridgeError
from bridge.live import Live, NotReachable
from bridge.sinks import count_letters
from bridge.sql import Connection, connect, translate
from bridge.status_facts import DatabaseFacts, SlotFacts, Subscribers

LETTERS_SECONDS: Final = 3.0
"""How long the broker has to tell how many dead letters it holds."""
LETTERS_AGAIN_SECONDS: Final = 30.0


class DeadLetters(msgspec.Struct, frozen=True):
    """Of one table, that the running bridge has made since it started."""

    schema: str
    table: str
    dead_letters: int


class Replay(msgspec.Struct, frozen=True):
    """What is kept for replay."""

    window: str | None
    """source.replay_window"""
    slot: SlotFacts | None
    since: str | None
    """All that was committed since then can be replayed; null: not known."""


class Status(msgspec.Struct, frozen=True):
    """The answer; `--json` prints it. Null is what is not known."""

    at: str
    server_version: str
    database: str
    slot_name: str
    slot: SlotFacts | None
    known: status_facts.Known | None
    lag_bytes: int | None
    """As the server says."""
    lag_seconds: float | None
    """As the bridge says; as the server measures it where the bridge cannot be asked."""
    subscribers: list[Subscribers]
    dead_letters: list[DeadLetters] | None
    letters_kept: int | None
    """Dead letters that the broker holds; null: it keeps none (stdout), or did not answer in time."""
    replay: Replay
    bridge: Live | None
    bridge_problem: str | None
    """Why the bridge was not asked, or not heard."""
    notes: list[str]
    """What an operator should look at."""


class Source:
    """Asks again and again; the connection is made anew where it was lost."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection: Connection | None = None
        self._letters: int | None = None
        self._letters_due = 0.0

    def ask(self) -> Status:
        """Raises SourceUnreachable, SourceRefused."""
        source = self._config.source
        if self._connection is None or self._connection.closed:
            self._connection = connect(source.connection, status_facts.SETTINGS)
        try:
            facts = status_facts.read(self._connection, source.slot, source.plugin)
        except psycopg.Error as error:
            self.close()
            raise translate(error, "asking for the status") from error
        return together(self._config, facts, *asked(self._config), self._letters_kept())

    def _letters_kept(self) -> int | None:
        """Counted anew now and then: it may take reading all of a topic."""
        if (now := time.monotonic()) >= self._letters_due:
            self._letters = letters_kept(self._config)
            self._letters_due = now + LETTERS_AGAIN_SECONDS
        return self._letters

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def asked(config: Config) -> tuple[Live | None, str | None]:
    """What the running bridge tells; or why it does not."""
    if config.http.listen is None:
        return None, "there is no http.listen to ask"
    try:
        told = live.ask(config.http.listen)
    except NotReachable as error:
        return None, str(error)
    if told.slot != config.source.slot:
        return None, f"the bridge that listens at {config.http.listen} streams from another slot, {told.slot}"
    return told, None


def letters_kept(config: Config) -> int | None:
    """How many dead letters the broker holds. It may be away, which must not hold the answer up."""
    counted: list[int | None] = []

    def count() -> None:
        with contextlib.suppress(BridgeError):
            counted.append(count_letters(config))

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    counting.join(LETTERS_SECONDS)
    return counted[0] if counted else None


def together(
    config: Config, facts: DatabaseFacts, told: Live | None, problem: str | None, letters: int | None = None
) -> Status:
    """Pure."""
    slot, window = facts.slot, config.source.replay_window
    return Status(
        at=facts.at,
        server_version=facts.server_version,
        database=facts.database,
        slot_name=config.source.slot,
        slot=slot,
        known=facts.known,
        lag_bytes=slot.lag_bytes if slot else None,
        lag_seconds=told.lag_seconds if told else slot.lag_seconds if slot else None,
        subscribers=_with_ways(facts.subscribers, told),
        dead_letters=None
        if told is None
        else [DeadLetters(each.schema, each.table, each.dead_letters) for each in told.tables if each.dead_letters],
        letters_kept=letters,
        replay=Replay(None if window is None else str(window), facts.replay_slot, facts.replay_since),
        bridge=told,
        bridge_problem=problem,
        notes=list(_notes(config, facts, told, letters)),
    )


def _with_ways(subscribers: list[Subscribers], told: Live | None) -> list[Subscribers]:
    """What the bridge has judged it knows better than the catalog."""
    ways = {} if told is None else {(each.schema, each.table, each.role): each for each in told.row_security}
    return [
        msgspec.structs.replace(each, judged=way.way, reason=way.reason)
        if each.judged in {"unknown", "one_by_one"}
        and (way := ways.get((each.schema or "", each.table or "", each.role))) is not None
        else each
        for each in subscribers
    ]


def _notes(config: Config, facts: DatabaseFacts, told: Live | None, kept: int | None) -> list[str]:
    slot, notes = facts.slot, []
    if facts.in_recovery:
        notes.append("this server is a standby in recovery: the bridge streams from the primary")
    if slot is None:
        before = ", though the bridge has used it before" if facts.known else ""
        notes.append(f"there is no slot {config.source.slot}{before}. What to do: see `walrus-bridge slot create`")
    if facts.slot_problem is not None:
        notes.append(facts.slot_problem)
    elif slot is not None and slot.wal_status == "unreserved":
        notes.append(
            "the slot is about to be lost: WAL that it needs may be removed at any moment (max_slot_wal_keep_size)"
        )
    if slot is not None and slot.active_pid is None and facts.slot_problem is None:
        notes.append("nobody streams from the slot: WAL piles up until a bridge does")
    if slot is not None and slot.wait_event == "WaitForStandbyConfirmation":
        notes.append(
            "the server sends nothing before the standbys of synchronized_standby_slots have it: where one is away, or no such"
            " slot is there, the bridge waits"
        )
    for holder in facts.lock_holders:
        who = (
            f"pid {holder.pid} ({holder.application or 'unnamed client'}, user {holder.user})"
            if holder.pid
            else "a prepared transaction (pg_prepared_xacts)"
        )
        notes.append(f"the bridge waits for a lock: {who} is in the way, and nothing moves until it is gone")
    if told is not None and not told.live:
        notes.append("the bridge's loop has not moved for 30 s")
    if told is not None and told.live and not told.streaming:
        notes.append("the bridge runs and does not stream: it starts, waits for the slot, or reconnects (see its log)")
    made = sum(each.dead_letters for each in told.tables) if told else 0
    if kept:
        wait = "dead letter waits" if kept == 1 else "dead letters wait"
        notes.append(f"{kept} {wait} for somebody to do something: `walrus-bridge dead-letter list`")
    elif kept is None and made:
        notes.append(f"{made} dead {'letter' if made == 1 else 'letters'} since the bridge started")
    if any(each.judged == "no_role" for each in facts.subscribers):
        notes.append("there are subscriptions of a role that does not exist, which get nothing")
    return notes
