"""Dead letters tried again: their changes are judged as of now, for those whom nobody could decide for.

In this order, so that whatever dies in between loses nothing: events are sent and acknowledged, then the letter is
taken away. Done twice, an event has the same id for the same subscriptions.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import msgspec
import psycopg

from bridge.checkpoint import Ticket
from bridge.dead_letters import DeadLetter, Recorded, change_of, left_for, retried, ways_on
from bridge.delivery import Delivery
from bridge.event import Event
from bridge.judged import Undecided
from bridge.judgement import both_connections, make_judging, same_database
from bridge.judging import TABLE_LOST, Decided, Judging, misfit
from bridge.lsn import Identity
from bridge.patterns import streams
from bridge.session import SourceSettings
from bridge.sinks.base import Sink
from bridge.sinks.letters import Letters, Stored
from bridge.sql import Connection, translate
from bridge.subscriptions import Subscriptions
from bridge.tally import Tally
from bridge.valuemaker import Unfit
from bridge.values import PGOUTPUT_CODEC
from bridge.writer import EventWriter, undecided_fields

PORTION = 50
"""Letters that are judged, sent and settled together."""

RELOAD_SECONDS = 5.0
"""After so long, who is subscribed is read again."""

Kept = tuple[Stored, DeadLetter]


class Outcome(msgspec.Struct, frozen=True):
    letter: DeadLetter
    events: int = 0
    subscriptions: int = 0
    """Subscription ids in these events."""
    undecided: int = 0
    """Subscriptions for which the letter stays."""
    left: str | None = None
    """Why it stays, as a whole or for some; None: it is done with."""


class _Verdict(msgspec.Struct, frozen=True):
    """What is to be done about a letter."""

    outcome: Outcome
    events: Sequence[Event] = ()
    instead: bytes | None = None
    """What takes its place; None: nothing, where it is done with, or it stays as it is."""


def retry(kept: Sequence[Kept], settings: SourceSettings, letters: Letters, sink: Sink) -> Iterator[Outcome]:
    """Try them again, in the order of their changes. `letters` gave them, `sink` is not open yet.

    Raises SourceUnreachable, SourceRefused, SinkUnreachable, SinkRefused: then the letters whose outcome has not been
    given yet are still there.
    """
    groups = itertools.groupby(
        sorted(kept, key=lambda each: (_plugin(each[1]), each[1].id)), key=lambda each: _plugin(each[1])
    )
    with contextlib.closing(sink):
        sink.open({(letter.schema, letter.table) for _, letter in kept if letter.recorded is not None})
        delivery = Delivery(sink)
        for plugin, group in groups:
            if not plugin:
                yield from (Outcome(letter, left=_not_from_letter(letter)) for _, letter in group)
                continue
            with contextlib.closing(_Judge(settings, plugin, delivery, letters)) as judge:
                for _, alike in itertools.groupby(group, key=lambda each: each[1].wanted):
                    yield from judge.retry(list(alike))


def _plugin(letter: DeadLetter) -> str:
    """Empty: it cannot be tried again."""
    return letter.recorded.plugin if letter.recorded is not None else ""


def _not_from_letter(letter: DeadLetter) -> str:
    return f"its change is not in the letter, or not whole. What to do: {ways_on(letter)[0][1]}"


class _Judge:
    """Connections for letters that came by one plugin."""

    def __init__(self, settings: SourceSettings, plugin: str, delivery: Delivery, letters: Letters) -> None:
        self._delivery = delivery
        self._letters = letters
        self._subscriptions = Subscriptions()
        self._streams = streams(settings.include, settings.exclude)
        with contextlib.ExitStack() as opening:
            self._connection, judging = opening.enter_context(
                both_connections(settings.connection, settings.judging_connection)
            )
            same_database(self._connection, judging)
            self._system, self._database = _server(self._connection)
            self._stack = opening.pop_all()
        self._connection.on_wait = judging.on_wait = self._keep_alive
        self._judging: Judging = make_judging(
            self._connection,
            judging,
            self._subscriptions,
            PGOUTPUT_CODEC,  # a letter's values are PostgreSQL's text
            EventWriter(Identity(self._system, 0)),
            Tally(),
            self._wait,
            judge=settings.judge,
            lossy=plugin == "wal2json",
            max_record_bytes=settings.max_record_bytes,
            stop_on_failure=False,
            leave=settings.leave,
        )

    def close(self) -> None:
        self._stack.close()

    def retry(self, kept: Sequence[Kept]) -> Iterator[Outcome]:
        """Letters for the same subscriptions."""
        reload_at = 0.0
        for at in range(0, len(kept), PORTION):
            if time.monotonic() >= reload_at:  # who unsubscribes meanwhile gets no more
                self._load(kept[0][1])
                reload_at = time.monotonic() + RELOAD_SECONDS
            yield from self._portion(kept[at : at + PORTION])

    def _load(self, letter: DeadLetter) -> None:
        try:
            self._subscriptions.load(self._connection, letter.wanted)
        except psycopg.Error as error:
            raise translate(error, "reading realtime.subscription") from error

    def _portion(self, kept: Sequence[Kept]) -> Iterator[Outcome]:
        sent: list[tuple[Stored, _Verdict, Ticket]] = []
        for (stored, letter), decided in zip(kept, self._judged([letter for _, letter in kept]), strict=True):
            verdict = decided if isinstance(decided, _Verdict) else self._verdict(letter, decided)
            ticket = self._delivery.ticket()
            for event in verdict.events:
                self._delivery.send(event, ticket)
            sent.append((stored, msgspec.structs.replace(verdict, events=()), ticket))  # they may be large
        self._delivery.wait()
        settled = [(stored, self._as_sent(verdict, ticket)) for stored, verdict, ticket in sent]
        changed = self._letters.settle(
            [
                (stored, verdict.instead)
                for stored, verdict in settled
                if verdict.outcome.left is None or verdict.instead is not None
            ]
        )
        for stored, verdict in settled:
            anew = {"left": "the bridge has written it anew meanwhile"} if stored in changed else {}
            yield msgspec.structs.replace(verdict.outcome, **anew)

    def _judged(self, letters: Sequence[DeadLetter]) -> list[list[Decided] | _Verdict]:
        """What `judge_again` says of each, or the verdict where it is not asked."""
        found: list[_Verdict | None] = []
        changes = []
        for letter in letters:
            assert letter.recorded is not None
            stranger = self._stranger(letter, letter.recorded)
            found.append(None if stranger is None else _Verdict(Outcome(letter, left=stranger)))
            if stranger is None:
                # Of a table that was gone, nobody knew what is above it: those there have not got their events either.
                above = bool(letter.undecided) or letter.reason == TABLE_LOST
                changes.append((change_of(letter, letter.recorded), letter.name, above))
        decided = iter(self._judging.judge_again(changes) if changes else [])
        return [next(decided) if each is None else each for each in found]

    def _stranger(self, letter: DeadLetter, recorded: Recorded) -> str | None:
        """Why it is not for the policies of this database to say who gets it."""
        if letter.identity.system_identifier != self._system:
            return f"its change is of another server (system identifier {letter.identity.system_identifier}, here {self._system})"
        if recorded.database != self._database:
            return f"its change is of another database ({recorded.database}, here {self._database})"
        if not self._streams(recorded.schema, recorded.table):
            return f"its table is not streamed: source.tables leaves out {recorded.schema}.{recorded.table}"
        return None

    def _verdict(self, letter: DeadLetter, decided: Sequence[Decided]) -> _Verdict:
        if not decided:
            return _Verdict(Outcome(letter, left=TABLE_LOST))
        writer = EventWriter(letter.identity)
        events: list[Event] = []
        undecided: list[Undecided] = []
        judged_tables: list[int] = []
        entities = letter.recorded.entities if letter.recorded is not None else ()
        for judged, values in decided:
            if judged is None or values is None or isinstance(values, Unfit):
                return _Verdict(Outcome(letter, left=misfit(values if isinstance(values, Unfit) else None)))
            judged_tables.append(judged.table.oid)
            # Where another table has taken the name, those above it may still be meant.
            if letter.undecided or judged_tables[0] in entities or judged.table.oid in entities:
                events += map(retried, writer.write(judged, values))
                undecided += judged.undecided
        subscribed = self._subscriptions.entities() if letter.undecided else ()
        if not set(judged_tables).issuperset({*entities, *subscribed}):
            return _Verdict(Outcome(letter, left=TABLE_LOST))
        outcome = Outcome(letter, len(events), sum(len(event.subscription_ids) for event in events))
        if not undecided:
            return _Verdict(outcome, events)
        outcome = msgspec.structs.replace(outcome, undecided=len(undecided), left=undecided[0].reason)
        return _Verdict(outcome, events, left_for(letter, undecided_fields(undecided)))

    def _as_sent(self, verdict: _Verdict, ticket: Ticket) -> _Verdict:
        """Where the broker refuses one of its events, the letter stays as it is."""
        reason = self._delivery.refused.get(ticket)
        if reason is None:
            return verdict
        return _Verdict(Outcome(verdict.outcome.letter, left=f"the broker refuses its event: {reason}"))

    def _keep_alive(self) -> None:
        self._delivery.poll()
        self._letters.keep_alive()

    def _wait(self, seconds: float) -> None:
        self._keep_alive()
        time.sleep(seconds)


def _server(connection: Connection) -> tuple[str, str]:
    """Its system identifier, and the database's name."""
    try:
        row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    except psycopg.Error as error:
        raise translate(error, "asking for the system identifier") from error
    assert row is not None
    return str(row[0]), connection.info.dbname
