"""The whole story: read, decode, judge, send, and confirm what the broker has acknowledged.

    replication stream → decoder → subscriptions → row level security → event → sink
                                                                                ↓ acknowledgements
              slot's flushed LSN  ←  status update  ←  checkpoint  ←────────────┘

One process, one loop, one owner for each connection. A batch is what the socket holds when the loop wakes. The
source and the sink reconnect apart: the sink by itself, the source here.
"""

import contextlib
import gc
import select
import time
from collections.abc import Callable

import structlog

from bridge.change import Commit
from bridge.checkpoint import Checkpoint
from bridge.errors import Transient, Undelivered
from bridge.event import Event
from bridge.health import Health
from bridge.lsn import format_lsn
from bridge.minutes import Minutes
from bridge.notify import Supervisor
from bridge.opening import Opening, Settings
from bridge.pace import Pace
from bridge.replay_window import ReplayWindow
from bridge.sending import DRAIN_SECONDS, Sender
from bridge.session import Session
from bridge.sinks.base import Sink
from bridge.stopping import Stopping, StopSignal

log = structlog.get_logger()

BATCH_MESSAGES, BATCH_BYTES = 4000, 4 << 20
STATUS_SECONDS = 1.0
"""A status update at least this often, so that wal_sender_timeout never ends the stream."""
STATUS_MOVED_SECONDS = 0.01
"""And this soon after the confirmable LSN moved: a late one multiplies duplicates after a kill."""
IN_FLIGHT_SECONDS = 0.002
"""The sink is polled so often while it has events: not all have a socket to wait on."""
LOOK_SECONDS = 2.0
"""The end of the server's WAL is looked at so often."""
RETAINED_SECONDS = 15.0
"""And so often also at what the slot retains."""
QUERY_PATIENCE_SECONDS = 2.0
"""After a signal: how long a query has to answer."""


def run(
    settings: Settings,
    sink: Sink,
    health: Health | None = None,
    prepare: Callable[[], None] | None = None,
    supervisor: Supervisor | None = None,
) -> None:
    """Stream until a signal asks to stop. Returns when all that was read is delivered and confirmed.

    `prepare` applies the migrations: once, when the server and the slot have been looked at and before anything moves.

    Raises a BridgeError: before the first streaming whatever is wrong; later only what cannot pass by waiting.
    """
    # What is made for each change has no cycles and does not live long: the collector need not look often.
    gc.set_threshold(50_000, 20, 50)
    with StopSignal() as stop:
        Pipeline(settings, sink, health or Health(), stop, prepare or (lambda: None), supervisor).run()


class Pipeline:
    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        health: Health,
        stop: StopSignal,
        prepare: Callable[[], None],
        supervisor: Supervisor | None = None,
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._health = health
        self._stop = stop
        self._supervisor = supervisor or Supervisor({})
        self._session: Session | None = None
        self._window: ReplayWindow | None = None
        self._status_sent = 0
        self._status_at = 0.0
        self._heartbeat_at = 0.0
        self._looked_at = 0.0
        pace = Pace(settings.events_per_second, settings.events_per_table)
        self._minutes = Minutes(health, pace)
        self._sender = Sender(
            sink,
            health,
            stop,
            pace,
            in_flight_bytes=settings.in_flight_bytes,
            stop_on_failure=settings.on_failure == "stop",
            tick=self._tick_meanwhile,
            wait=self._wait_meanwhile,
        )
        self._opening = Opening(
            settings, sink, self._sender, health, stop, prepare, waiting=self._waiting, pause=self._pause
        )

    def run(self) -> None:
        try:
            session = self._begun(self._opening.first())
            while not self._stop.requested:
                try:
                    self._stream(session)
                except Transient as error:
                    session = self._reconnect(session, error)
        except Stopping:
            self._leave()
        except BaseException:
            self._close()
            raise
        else:
            self._leave()

    @property
    def _checkpoint(self) -> Checkpoint:
        return self._sender.checkpoint

    def _stream(self, session: Session) -> None:
        """The loop."""
        more = False
        while not self._stop.requested:
            reading = self._sender.has_room
            self._wait_for_work(session, reading=reading, at_once=more and reading)
            if reading:
                batch = session.stream.read(BATCH_MESSAGES, BATCH_BYTES)
                more = batch.more
                if batch.data:
                    self._health.received(batch.data[-1][0])
                messages = session.decode(batch.data)
                self._health.lag.read(messages, time.monotonic())
                for portion in self._sender.pace.portions(messages):
                    for output in session.judging.process(portion):
                        if isinstance(output, Commit):
                            self._checkpoint.commit(output.end_lsn)
                        elif not self._opening.done or self._is_new(output):
                            self._sender.send(output)
                self._health.acknowledging.sent(self._checkpoint.newest, time.monotonic())
                if batch.keepalive is not None and not session.in_transaction:
                    self._checkpoint.keepalive(batch.keepalive)
                    self._health.received(batch.keepalive)
                if batch.reply_wanted:
                    self._status_at = 0.0
            self._tick()
            self._look_ahead(session)

    def _is_new(self, event: Event) -> bool:
        """Whether the sink does not have it yet."""
        if event.order <= self._opening.done:
            return False
        self._opening.done = ""
        return True

    def _tick(self, seconds: float = 0.0) -> None:
        """What must go on whatever else waits: acknowledgements, and status updates."""
        self._sender.poll(seconds)
        now = time.monotonic()
        self._health.turn(now)
        if now >= self._supervisor.due:
            self._supervisor.alive(now)
        confirmed = self._confirmable()
        since = now - self._status_at
        if since >= STATUS_SECONDS or (confirmed > self._status_sent and since >= STATUS_MOVED_SECONDS):
            self._confirm(confirmed, now)
        self._minutes.turn(now, confirmed, self._checkpoint.in_flight_events)

    def _confirmable(self) -> int:
        return max(self._opening.start_lsn, self._sink.confirmable(self._checkpoint.advance()))

    def _confirm(self, lsn: int, now: float) -> None:
        """Tell PostgreSQL what is delivered, never past the guard's ceiling."""
        self._health.count(now)
        if self._session is not None:
            self._status_sent, self._status_at = self._session.guard.allowed(lsn), now
            self._session.stream.send_status(self._status_sent)
            self._health.confirmed(self._status_sent, now)

    def _waiting(self) -> None:
        """Called while a query waits for its answer."""
        if self._stop.requested_for(QUERY_PATIENCE_SECONDS):
            raise Stopping
        self._tick()

    def _pause(self, seconds: float) -> None:
        """Sleep, but for what must go on."""
        end = time.monotonic() + seconds
        while True:
            if self._stop.requested:
                raise Stopping
            self._tick()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

    def _tick_meanwhile(self, seconds: float) -> None:
        """While an event waits for room."""
        self._tick(seconds)
        if self._session is not None:
            self._session.judging.rest()

    def _wait_meanwhile(self, seconds: float) -> None:
        """Let nothing but the reading wait for so long, or less."""
        self._wait(seconds)
        self._tick()
        if self._session is not None:
            self._look_ahead(self._session)

    def _wait_for_work(self, session: Session, *, reading: bool, at_once: bool) -> None:
        """Until a socket has something, or it is time for a status update."""
        self._sender.bury_rejections()
        self._wait(0 if at_once else STATUS_SECONDS / 2, session.stream.fileno() if reading else None)

    def _wait(self, seconds: float, source: int | None = None) -> None:
        """At most so long, until a socket has something: the signals', the sink's, and that of `source`."""
        poller = select.poll()
        for descriptor in (self._stop.fileno(), self._sink.fileno(), source):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        waiting = self._checkpoint.in_flight_events > 0 or self._checkpoint.confirmed > self._status_sent
        poller.poll(1000 * min(seconds, IN_FLIGHT_SECONDS if waiting else STATUS_SECONDS / 2))

    def _look_ahead(self, session: Session) -> None:
        """What is due between batches: the guard's ceiling, the heartbeat, and a look at how far the server is."""
        session.judging.rest()
        now = time.monotonic()
        if session.guard.needs_raising(self._checkpoint.confirmed):
            session.guard.raise_ceiling(self._checkpoint.confirmed)
        if now - self._heartbeat_at >= self._settings.heartbeat_seconds:
            session.heartbeat()
            self._heartbeat_at = now
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            asked = self._health.retained_at
            self._health.looked(session.look(slot=asked is None or now - asked >= RETAINED_SECONDS), now)

    # -- beginning and ending --------------------------------------------------------------------------------------

    def _begun(self, session: Session) -> Session:
        """A stream has started."""
        self._status_sent, self._status_at = 0, 0.0
        self._heartbeat_at = time.monotonic()
        self._session = session
        self._health.streaming = True
        if self._window is None and self._settings.window is not None:
            self._window = ReplayWindow(self._settings.window, self._health)
        self._supervisor.streaming()
        return session

    def _reconnect(self, lost: Session, error: Transient) -> Session:
        self._health.streaming = False
        self._supervisor.reconnecting()
        self._session = None
        return self._begun(self._opening.again(lost, error))

    def _leave(self) -> None:
        """Deliver what was read, confirm it, close the stream cleanly."""
        self._health.streaming = False
        self._supervisor.stopping()
        try:
            self._drain()
        finally:
            self._close()

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._sink.close()
        if self._window is not None:
            self._window.close()

    def _last_words(self, say: Callable[[], None]) -> None:
        """With PostgreSQL away the broker still gets what was read; it cannot be confirmed, so it comes again."""
        try:
            say()
        except Transient as error:
            log.warning("the last position cannot be confirmed", reason=str(error))
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def _drain(self) -> None:
        if self._session is not None:
            with contextlib.suppress(Stopping):
                self._last_words(self._session.judging.rest)
        while self._checkpoint.in_flight_events and not self._stop.requested_for(DRAIN_SECONDS):
            with contextlib.suppress(Stopping):
                self._last_words(self._sender.bury_rejections)
            self._last_words(lambda: self._tick(0.02))
        confirmed = self._confirmable()
        self._last_words(lambda: self._confirm(confirmed, time.monotonic()))
        log.info("stopped", confirmed=format_lsn(confirmed), in_flight=self._checkpoint.in_flight_events)
        if self._checkpoint.in_flight_events:
            raise Undelivered(
                f"stopped with {self._checkpoint.in_flight_events} events that the broker has not acknowledged within"
                f" {DRAIN_SECONDS:.0f} s. The position is {format_lsn(confirmed)}; they come again at the next start"
            )
