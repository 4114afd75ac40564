"""A stream begins, at the first start and after each lost connection: connect, check, load, agree on where, start."""

import time
from collections.abc import Callable, Mapping

import structlog

from bridge.backoff import Backoff
from bridge.checkpoint import Checkpoint, InFlight
from bridge.errors import SlotActive, SlotError, Transient
from bridge.guard import Guard
from bridge.health import Health
from bridge.lsn import Identity
from bridge.replay_window import WindowSettings
from bridge.sending import Sender
from bridge.session import Session, SourceSettings, same_server
from bridge.sinks.base import Position, Sink
from bridge.slot import Slot
from bridge.stopping import StopSignal

log = structlog.get_logger()

OWN_WALSENDER_SECONDS = 5.0
"""How long a walsender of a bridge that was killed may hold the slot at the start."""


class Settings(SourceSettings, frozen=True, kw_only=True):
    heartbeat_seconds: float = 60.0
    in_flight_bytes: int = 64 << 20
    events_per_second: int | None = None
    events_per_table: Mapping[tuple[str, str], int] = {}
    wait: bool = False
    """Wait for a slot that another client holds, as a standby instance would."""
    accept_gap: bool = False
    """Go on where changes may be missing (guard.py)."""
    window: WindowSettings | None = None
    """The second slot to keep or to drop; None: whatever there is stays as it is."""


class Opening:
    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        sender: Sender,
        health: Health,
        stop: StopSignal,
        prepare: Callable[[], None],
        *,
        waiting: Callable[[], None],
        pause: Callable[[float], None],
    ) -> None:
        """`prepare`: once, when the server and the slot have been looked at. `waiting` is called while a query waits for
        its answer, `pause` sleeps; both raise Stopping after a signal."""
        self.start_lsn = 0
        """Where the stream started: all before it was confirmed."""
        self.done = ""
        """Events up to this `order` are to be skipped, for the sink has them (exactly once)."""
        self._settings = settings
        self._sink = sink
        self._sender = sender
        self._health = health
        self._stop = stop
        self._prepare = prepare
        self._waiting = waiting
        self._pause = pause
        self._identity: Identity | None = None
        self._walsender: int | None = None
        """The pid of the last stream's, which may hold the slot until it notices that we have gone."""

    def first(self) -> Session:
        """Raises a BridgeError, whatever is wrong."""
        return self._open(first=True)

    def again(self, lost: Session, error: Transient) -> Session:
        """For as long as it takes, with pauses that grow to half a minute. Raises only what cannot pass by waiting."""
        self._walsender = lost.stream.server_pid
        lost.close()
        backoff = Backoff()
        while True:
            pause = backoff.pause_seconds()
            log.warning(
                "source lost, reconnecting", reason=str(error), attempt=backoff.attempt, pause_seconds=round(pause, 2)
            )
            self._pause(pause)
            try:
                session = self._open(first=False)
            except SlotActive as active:
                raise SlotError(str(active)) from active
            except Transient as another:
                error = another
            else:
                self._health.reconnects += 1
                return session

    def _open(self, *, first: bool) -> Session:
        """A session that streams. Later than at first, the slot must be there already."""
        session = Session(self._settings, self._health.tally, self._waiting, self._pause)
        try:
            self._recognise(session)
            session.check_server()
            slot = self._wait_for_slot(session)
            if slot is None and not first:
                raise session.slot_gone()
            if first:
                with self._stop.interrupting():
                    self._prepare()
            guard = session.open_guard()
            tables = session.load_subscriptions()
            if first:
                with self._stop.interrupting():
                    for refused in self._sink.open(tables):
                        log.warning("a table has no destination, its events are rejected", reason=str(refused))
            if slot is None:
                # Last, so that nothing holds WAL back where something else is wrong; and who subscribed before it counts.
                slot = session.make_slot(accept_gap=self._settings.accept_gap)
                session.load_subscriptions()
            start, done = self._agree(session, guard, slot, accept_gap=self._settings.accept_gap and first)
            guard.raise_ceiling(start)
            session.start(start)
        except BaseException:
            session.close()
            raise
        # What the sink still holds of the old stream counts for the budget, unless it has forgotten that.
        held = self._sender.checkpoint.in_flight
        self._sender.checkpoint = Checkpoint(start, InFlight(held.sent_bytes) if self._sink.forgets else held)
        self._health.in_flight = self._sender.checkpoint.in_flight
        self._health.restarted()
        self.start_lsn, self.done = start, done
        return session

    def _recognise(self, session: Session) -> None:
        """Raises a BridgeError where it is another server than before."""
        if self._identity is not None:
            same_server(self._identity, session.identity)
            if self._identity.timeline != session.identity.timeline:
                # What was acknowledged of the old timeline says nothing of LSNs on this one.
                self._sender.checkpoint = Checkpoint(in_flight=self._sender.checkpoint.in_flight)
                self.start_lsn = 0
        self._identity = session.identity

    def _agree(self, session: Session, guard: Guard, slot: Slot, *, accept_gap: bool) -> tuple[int, str]:
        """Where to start, and up to which event the sink has everything. Raises a BridgeError where changes may be missing
        between what the slot, the server's record and the sink say."""
        confirmed = slot.confirmed_lsn or 0
        guard.check(confirmed, self._sender.checkpoint.advance(), accept_gap=accept_gap)
        position = self._sink.resume(session.identity)
        if self._sink.forgets:
            self._sender.forget_rejections()
        if position is None:
            # What was acknowledged meanwhile counts; what was in flight with the old stream comes again.
            return max(confirmed, self._sender.checkpoint.advance()), ""
        known = (position.system_identifier, position.timeline, position.end_lsn)
        if not guard.check_sink(known, position.reached, confirmed, accept_gap=accept_gap):
            identity = session.identity
            position = Position(identity.system_identifier, identity.timeline, confirmed, "")
            self._sink.go_on_from(position)
        return max(confirmed, position.end_lsn), position.last_event

    def _wait_for_slot(self, session: Session) -> Slot | None:
        end = time.monotonic() + OWN_WALSENDER_SECONDS
        said = False
        while True:
            try:
                return session.find_slot()
            except SlotActive as active:
                own = active.pid is not None and active.pid == self._walsender
                if not (own or self._settings.wait) and time.monotonic() > end:
                    raise
                if not said:
                    said = True
                    log.info("waiting for the slot", reason=str(active))
            self._pause(0.2)
