"""`walrus-bridge replay`: a stretch of the past once more, beside the running bridge.

The same way as the pipeline's, from a temporary copy of a slot (past.py): so nobody's position moves, and nothing is
left behind, however it ends. Who gets an event is decided anew, by the subscriptions, rights and policies of now; what
the past did to realtime.subscription does not take effect.
"""

import contextlib
import gc
import json
import select
import time
from collections.abc import Callable, Iterator

import msgspec
import psycopg
import structlog

from bridge.change import Commit
from bridge.checkpoint import Checkpoint
from bridge.errors import BridgeError, Incomplete, SourceRefused, Undelivered
from bridge.event import Event, letter_for
from bridge.health import Health
from bridge.lsn import format_lsn
from bridge.opening import Settings
from bridge.pace import Pace
from bridge.past import Past
from bridge.pipeline import IN_FLIGHT_SECONDS, QUERY_PATIENCE_SECONDS, STATUS_SECONDS
from bridge.progress import Progress
from bridge.sending import DRAIN_SECONDS, Sender
from bridge.session import Session
from bridge.sinks.base import Sink
from bridge.sql import Connection, translate
from bridge.stopping import Stopping, StopSignal

log = structlog.get_logger()

REPLAYED = ("replayed", "true")
"""The header that tells a replayed event."""
RELOAD_SECONDS = 5.0
"""How often the subscriptions are read anew; seldomer where that takes long."""
_RELOAD_SHARE = 20
"""Reading them may take one such part of the time."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay."""

    first: int
    """Commit LSN, as `last`; both are included."""
    last: int | None = None
    """None: up to what is committed now."""
    tables: tuple[tuple[str, str], ...] = ()
    """Events of these (schema, name) only; none: of all."""
    subscription: str | None = None
    """Events that are for this subscription_id only (and for others besides)."""


def run(settings: Settings, sink: Sink, request: Request, go_on: Callable[[int, int], str]) -> int:
    """Replay. How many events went out, dead letters included.

    `go_on`: the command that replays the rest, between two commit LSNs. Raises a BridgeError: NotKept, Incomplete where
    a signal has ended it, or whatever else is wrong; with that command in it once something has been replayed.
    """
    gc.set_threshold(50_000, 20, 50)
    with StopSignal() as stop:
        return Replay(settings, sink, request, stop, go_on).run()


class Replay:
    def __init__(
        self, settings: Settings, sink: Sink, request: Request, stop: StopSignal, go_on: Callable[[int, int], str]
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._request = request
        self._stop = stop
        self._go_on = go_on
        self._health = Health()
        self._sender = Sender(
            sink,
            self._health,
            stop,
            Pace(settings.events_per_second, settings.events_per_table),
            in_flight_bytes=settings.in_flight_bytes,
            stop_on_failure=settings.on_failure == "stop",
            tick=self._tick,
            wait=self._wait_meanwhile,
        )
        self._session: Session | None = None
        self._past: Past | None = None
        self._progress: Progress | None = None
        self._entities: list[int] | None = None
        """OIDs of the tables that matter; None: all."""
        self._position = 0
        """How far what was read is sent."""
        self._reload_at = 0.0
        self._status_at = 0.0

    def run(self) -> int:
        session = Session(self._settings, self._health.tally, self._waiting, self._pause, follow=False)
        try:
            with contextlib.closing(self._sink):
                past = self._open(session)
                with Progress(past.stretch.first, past.stretch.last) as self._progress:
                    self._replay(session, past)
                return self._events
        except Stopping as stopping:
            raise Incomplete("stopped before anything was replayed") from stopping
        finally:
            session.stream.abandon()
            session.close()

    @property
    def _events(self) -> int:
        return sum(self._health.events.values()) + sum(self._health.dead_letters.values())

    def _open(self, session: Session) -> Past:
        session.check_server()
        self._entities = entities(session.connection, self._request)
        tables = session.load_subscriptions(self._entities)
        self._reload_at = time.monotonic() + RELOAD_SECONDS
        with self._stop.interrupting():
            past = Past(
                self._settings,
                session.connection,
                session.stream,
                self._request.first,
                self._request.last,
                subscribed=list(session.subscriptions.entities()),
            )
            for refused in self._sink.open(tables):
                log.warning("a table has no destination, its events are rejected", reason=str(refused))
        self._sender.checkpoint = Checkpoint(past.stretch.first)
        self._position = past.stretch.first
        self._session, self._past = session, past
        log.info(
            "replaying",
            first=format_lsn(past.stretch.first),
            last=format_lsn(past.stretch.last),
            copy_of=past.copy.source,
            subscriptions=len(session.subscriptions),
        )
        return past

    def _replay(self, session: Session, past: Past) -> None:
        """To the end, or as far as it gets."""
        is_done = False
        try:
            with contextlib.suppress(Stopping):
                is_done = self._stream(session, past)
            self._drain()
        except BridgeError as error:
            with contextlib.suppress(BridgeError):
                self._drain(DRAIN_SECONDS)
            raise type(error)(f"{error}. Replayed up to there, go on with: {self._rest(past)}") from error
        if self._sender.checkpoint.in_flight_events:
            raise Undelivered(
                f"stopped with {self._sender.checkpoint.in_flight_events} events that the broker has not acknowledged within"
                f" {DRAIN_SECONDS:.0f} s. What to do: go on with: {self._rest(past)}"
            )
        if is_done and self._progress is not None:
            self._progress.told(self._events, past.stretch.last)
        elif not is_done:
            raise Incomplete(f"stopped before the end, {self._events} events sent. Go on with: {self._rest(past)}")

    def _rest(self, past: Past) -> str:
        """The command that replays from the first transaction on that is not entirely acknowledged."""
        return self._go_on(self._sender.checkpoint.advance(), past.stretch.last)

    def _stream(self, session: Session, past: Past) -> bool:
        """The loop; whether all of it has been sent. That all of it has been read says nothing of that."""
        while not (past.stretch.is_done or self._stop.requested):
            reading = self._sender.has_room
            self._sender.bury_rejections()
            self._wait(STATUS_SECONDS / 2, past.fileno() if reading else None)
            if reading:
                for portion in self._sender.pace.portions(past.read()):
                    for output in session.judging.process(portion):
                        if isinstance(output, Commit):
                            self._sender.checkpoint.commit(output.end_lsn)
                            self._position = output.end_lsn
                        elif concerns(output, of := self._request.subscription):
                            if of is not None and output.dead_letter:
                                output = letter_for(output, of)  # noqa: PLW2901  # others' events are not sent here
                            output.headers.append(REPLAYED)
                            self._sender.send(output)
                    self._reload(session)
                self._position = past.stretch.position
            self._tick()
        return past.stretch.is_done

    def _drain(self, seconds: float = float("inf")) -> None:
        """Wait for what was sent, at most so long; after a signal for a while only."""
        end = time.monotonic() + seconds
        while self._sender.checkpoint.in_flight_events and time.monotonic() < end:
            if self._stop.requested_for(DRAIN_SECONDS):
                break
            with contextlib.suppress(Stopping):
                self._sender.bury_rejections()
            self._sender.poll(0.02)

    def _tick(self, seconds: float = 0.0) -> None:
        """What must go on whatever else waits: acknowledgements, status updates, the progress."""
        self._sender.poll(seconds)
        now = time.monotonic()
        past, session = self._past, self._session
        if past is not None and session is not None and now - self._status_at >= STATUS_SECONDS:
            # Of the copy: it need not hold back what is done.
            session.stream.send_status(self._sender.checkpoint.advance(), ask=True)
            self._status_at = now
            if self._progress is not None:
                self._progress.told(self._events, self._position)

    def _reload(self, session: Session) -> None:
        """Who unsubscribes meanwhile gets no more, who subscribes gets the rest."""
        began = time.monotonic()
        if began >= self._reload_at:
            session.load_subscriptions(self._entities)
            now = time.monotonic()
            self._reload_at = now + max(RELOAD_SECONDS, _RELOAD_SHARE * (now - began))

    def _waiting(self) -> None:
        """Called while a query waits for its answer."""
        if self._stop.requested_for(QUERY_PATIENCE_SECONDS):
            raise Stopping
        self._tick()

    def _pause(self, seconds: float) -> None:
        """Sleep, but for what must go on."""
        if self._stop.requested:
            raise Stopping
        self._tick()
        time.sleep(seconds)

    def _wait_meanwhile(self, seconds: float) -> None:
        self._wait(seconds)
        self._tick()

    def _wait(self, seconds: float, source: int | None = None) -> None:
        """At most so long, until a socket has something: the signals', the sink's, and that of `source`."""
        poller = select.poll()
        for descriptor in (self._stop.fileno(), self._sink.fileno(), source):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        waiting = self._sender.checkpoint.in_flight_events > 0
        poller.poll(1000 * min(seconds, IN_FLIGHT_SECONDS if waiting else STATUS_SECONDS / 2))


def entities(connection: Connection, request: Request) -> list[int] | None:
    """OIDs of the tables whose subscriptions matter; None: of all. Raises SourceRefused where that are none."""
    if not request.tables and request.subscription is None:
        return None
    try:
        found = list(_entities(connection, request))
    except psycopg.Error as error:
        raise translate(error, "asking who subscribes to what is to be replayed") from error
    if not found:
        whom = "nobody" if request.subscription is None else f"subscription {request.subscription}"
        what = ", ".join(".".join(table) for table in request.tables) or "nothing"
        raise SourceRefused(
            f"{whom} subscribes to {what}, so nothing can be replayed. What to do: see realtime.subscription"
        )
    return found


def _entities(connection: Connection, request: Request) -> Iterator[int]:
    for schema, table in request.tables:
        row = connection.execute(
            "select to_regclass(format('%%I.%%I', %s::text, %s::text))", (schema, table)
        ).fetchone()
        if row is None or row[0] is None:
            raise SourceRefused(
                f"there is no table {schema}.{table}. What to do: write --table schema.table, with the names as in the"
                " catalog"
            )
    rows = connection.execute(
        "select distinct s.entity::oid from realtime.subscription s join pg_class c on c.oid = s.entity"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where (%(id)s::uuid is null or s.subscription_id = %(id)s::uuid)"
        " and (cardinality(%(schemas)s::text[]) = 0"
        "   or (n.nspname, c.relname) in (select * from unnest(%(schemas)s::text[], %(names)s::text[])))",
        {
            "id": request.subscription,
            "schemas": [schema for schema, _ in request.tables],
            "names": [name for _, name in request.tables],
        },
    )
    for (oid,) in rows:
        yield int(oid)


def concerns(event: Event, subscription: str | None) -> bool:
    """Whether an event is for a subscription, perhaps among others; a dead letter: whether it tells that it got nothing.
    Pure."""
    if subscription is None or subscription in event.subscription_ids:
        return True
    if not event.dead_letter:
        return False
    undecided = json.loads(event.value)["dead_letter"]["undecided"]
    return not undecided or any(each["subscription_id"] == subscription for each in undecided)
