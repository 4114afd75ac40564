"""A batch of the stream's messages in, events in their order out: matching, judging, writing.

All that a batch needs of PostgreSQL is asked at once, in snapshots that contain its transactions; a snapshot taken
too early is thrown away and taken again. Until all is answered nothing has changed but who is subscribed, so every
question may be asked again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import psycopg
import structlog

from bridge.audience import Audiences
from bridge.catalog import Catalog, Lookup, Name
from bridge.change import DELETE, TRUNCATE, UPDATE, Change, Commit, Kind, Message
from bridge.errors import PoisonError
from bridge.event import Event, Values
from bridge.judged import Judged, Undecided
from bridge.pools import Candidate, Route
from bridge.rls import Outdated
from bridge.snapshot import Snapshot
from bridge.sql import Connection, is_transient, translate
from bridge.subscriptions import Subscriptions, Update, is_subscription_change
from bridge.tally import Tally
from bridge.valuemaker import Unfit, ValueMaker
from bridge.values import Codec
from bridge.writer import EventWriter

log = structlog.get_logger()

Output = Event | Commit
T = TypeVar("T")

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.0005, 0.25


class Lost(msgspec.Struct, frozen=True, eq=False):
    """A change whose table is gone, though there are subscriptions that knew it by its name."""

    change: Change
    entities: tuple[int, ...]
    """OIDs of the tables that these subscriptions are for; none where that is not known."""


Step = Candidate | Lost | Commit
Decided = tuple[Judged | None, Values | Unfit | None]
"""None: the table is gone."""

TABLE_LOST: Final = "the table was dropped or renamed, or another one has taken its name"

LARGEST_PORTION: Final = 4000
MANY_MEMBERS: Final = 500_000
"""Subscribers of all changes that are judged at once, those of the same audience counted once."""


class Judging:
    def __init__(
        self,
        connections: Sequence[Connection],
        catalog: Catalog,
        audiences: Audiences,
        values: ValueMaker,
        subscriptions: Subscriptions,
        codec: Codec,
        writer: EventWriter,
        tally: Tally,
        *,
        stop_on_failure: bool,
        leave: bool,
        wait: Callable[[float], None],
        follow: bool = True,
    ) -> None:
        """`follow`: what the stream does to realtime.subscription takes effect; in a replay that is long past."""
        self._connections = connections
        self._catalog = catalog
        self._audiences = audiences
        self._values = values
        self._subscriptions = subscriptions
        self._codec = codec
        self._writer = writer
        self._tally = tally
        self._stop_on_failure = stop_on_failure
        self._leave = leave
        self._wait = wait
        self._follow = follow
        self._named: dict[int, int] = {}
        """In a replay, by what transaction each table got its name."""
        self._portion = 256
        """How many messages are judged at once."""
        self._pending: list[Update] = []
        """What the open transaction did to realtime.subscription; takes effect at its commit."""

    def process(self, messages: Sequence[Message]) -> Iterator[Output]:
        """Events and commits in the order of the stream, each event written when it is asked for. Then `rest`.

        Raises SourceUnreachable when a connection is lost (reconnect, and stream from the confirmed LSN again), and
        PoisonError where `on_failure: stop` meets a change that can never succeed.
        """
        start = 0
        while start < len(messages):
            part = messages[start : start + self._portion]
            begun = time.monotonic()
            try:
                steps, decided = self._judge(part)
            except psycopg.Error as error:
                raise translate(error, "judging changes") from error
            finally:
                self._tally.judging_seconds += time.monotonic() - begun
            self._adapt(decided, len(part))
            start += len(part)
            yield from self._outputs(steps, decided)

    def _judge(self, messages: Sequence[Message]) -> tuple[list[Step], list[Decided]]:
        """What happens in the stream, and of each candidate among that who gets it."""
        self._subscriptions.purge()
        changes = [message for message in messages if isinstance(message, Change)]
        if not (len(self._subscriptions) or self._pending or any(map(is_subscription_change, changes))):
            changes = []
        if not changes:
            return [step for step in self._match(messages, {}, ()) if isinstance(step, Commit)], []
        xids = {change.transaction.xid for change in changes}
        names = list(dict.fromkeys([(change.schema, change.table, change.oid) for change in changes]))

        def begin() -> None:
            self._begin(xids, names)

        begin()
        lookups, updates = self._asked(begin, lambda: self._look(names, changes))
        steps = self._match(messages, lookups, updates)
        candidates = [step for step in steps if isinstance(step, Candidate)]
        decided = self._asked(begin, lambda: self._decide(candidates)) if candidates else []
        if not self._follow:
            self._catalog.end()  # nobody waits for a replay
        return steps, decided

    def rest(self) -> None:
        """End the transaction in which was judged: before the loop waits for anything, and once the events are on their way,
        for it is one more way to the server. Raises SourceUnreachable."""
        try:
            self._catalog.end()
        except psycopg.Error as error:
            raise translate(error, "judging changes") from error

    def _adapt(self, decided: Sequence[Decided], judged: int) -> None:
        """As many messages at a time as have no more subscribers, all together, than memory has room for."""
        audiences = {id(audience): audience for each, _ in decided if each for audience in each.audiences}
        many = sum(len(audience.members.subscriptions) for audience in audiences.values())
        if many > MANY_MEMBERS:
            self._portion = max(1, judged * MANY_MEMBERS // many)
        elif many < MANY_MEMBERS // 4:
            self._portion = min(max(self._portion, 2 * judged), LARGEST_PORTION)

    def _outputs(self, steps: Sequence[Step], decided: list[Decided]) -> Iterator[Output]:
        decided.reverse()
        for step in steps:
            if isinstance(step, Commit):
                yield step
            elif isinstance(step, Candidate):
                yield from self._write(step, *decided.pop())  # and forget it, for audiences are large
            else:
                change = step.change
                yield self._letter(change, TABLE_LOST, change.schema, change.table, entities=step.entities)

    def judge_again(self, changes: Sequence[tuple[Change, Name, bool]]) -> list[list[Decided]]:
        """Changes that were judged before, each as one of the table of that name, and with the flag of the partitioned
        tables above it as well: who of the subscriptions that are loaded gets it now. Empty: there is no such table.

        Raises SourceUnreachable, SourceRefused.
        """
        names = [name for _, name, _ in changes]

        def begin() -> None:
            # Their transactions ended long ago, and an old xid may be taken for one to come (snapshot.py).
            self._begin((), names)

        try:
            begin()
            lookups = self._asked(begin, lambda: self._catalog.look_up(names))
            tables = [
                (lookup.oid, *(lookup.ancestors if above else ())) if lookup else ()
                for (_, _, above), lookup in zip(changes, lookups, strict=True)
            ]
            candidates = [
                Candidate(change, self._route(oid, change.kind))
                for (change, _, _), oids in zip(changes, tables, strict=True)
                for oid in oids
            ]
            decided = iter(self._asked(begin, lambda: self._decide(candidates)) if candidates else [])
            self._catalog.end()
            return [[next(decided) for _ in oids] for oids in tables]
        except psycopg.Error as error:
            raise translate(error, "judging changes") from error

    # -- asking PostgreSQL -----------------------------------------------------------------------------------------

    def _begin(self, xids: Iterable[int], names: Sequence[Name]) -> None:
        """Open the catalog's transaction with a snapshot that contains the transactions `xids`."""
        pause = _FIRST_WAIT_SECONDS
        while True:
            if all(map(self._catalog.open(names).contains, xids)):
                return
            self._catalog.end()
            self._wait(pause)
            pause = min(pause * 2, _LONGEST_WAIT_SECONDS)

    def _asked(self, begin: Callable[[], None], ask: Callable[[], T]) -> T:
        """Ask until there is an answer; each time after the first in a fresh snapshot, which `begin` takes."""
        pause = _FIRST_WAIT_SECONDS
        while True:
            try:
                return ask()
            except Outdated:
                pass
            except psycopg.Error as error:
                if not is_transient(error) or any(
                    connection.broken or connection.closed for connection in self._connections
                ):
                    raise
                log.warning("judging is tried again", sqlstate=error.sqlstate, pause_seconds=pause)
            self._catalog.end()
            self._wait(pause)
            pause = min(pause * 2, _LONGEST_WAIT_SECONDS)
            begin()

    def _look(
        self, names: Sequence[Name], changes: Sequence[Change]
    ) -> tuple[dict[Name, Lookup | None], list[Update | None]]:
        """What the names in the batch stand for now, and what its changes to realtime.subscription say."""
        found = dict(zip(names, self._catalog.look_up(names), strict=True))
        if not self._follow:
            self._named = self._catalog.named({lookup.oid for lookup in found.values() if lookup})
        own = [change for change in changes if is_subscription_change(change)] if self._follow else []
        return found, self._subscriptions.read(self._connections[0], own, self._codec) if own else []

    # -- matching --------------------------------------------------------------------------------------------------

    def _match(
        self, messages: Sequence[Message], lookups: dict[Name, Lookup | None], updates: Sequence[Update | None]
    ) -> list[Step]:
        """Which changes have subscribers, each at its own place in the stream."""
        steps: list[Step] = []
        fresh = iter(updates)
        routes: dict[tuple[str, str, int | None, Kind], list[Route] | tuple[int, ...]] = {}
        for message in messages:
            if isinstance(message, Change):
                if updates and is_subscription_change(message):
                    update = next(fresh)
                    if update is not None:
                        self._pending.append(update)
                key = (message.schema, message.table, message.oid, message.kind)
                try:
                    found = routes[key]
                except KeyError:
                    found = routes[key] = self._routes(message, lookups)
                if isinstance(found, tuple):
                    steps.append(Lost(message, found))
                elif found and self._named and self._is_of_another(message, lookups):
                    steps.append(Lost(message, ()))
                else:
                    steps += [Candidate(message, route) for route in found]
            elif isinstance(message, Commit):
                if self._pending:
                    self._subscriptions.apply(self._pending)
                    self._pending = []
                    routes.clear()
                steps.append(message)
        return steps

    def _is_of_another(self, change: Change, lookups: dict[Name, Lookup | None]) -> bool:
        """Whether the change may be of a table that had the name before, which only an OID could tell: a replay reaches
        far back, and who may see the one that has the name now need not be let see that one."""
        lookup = lookups.get((change.schema, change.table, change.oid))
        if change.oid is not None or lookup is None or lookup.oid not in self._named:
            return False
        return Snapshot.parse(self._catalog.snapshot).has_later(self._named[lookup.oid], change.transaction.xid)

    def _routes(self, change: Change, lookups: dict[Name, Lookup | None]) -> list[Route] | tuple[int, ...]:
        """Where such changes go, as long as the subscriptions are the same; where the table is gone, and was known, the
        OIDs of the tables whose subscriptions knew it."""
        name = (change.schema, change.table, change.oid)
        if change.kind == TRUNCATE or name not in lookups:
            return []
        lookup = lookups[name]
        if lookup is None:
            return self._subscriptions.known_as(change.schema, change.table, change.kind) or []
        routes = []
        for oid in (lookup.oid, *lookup.ancestors):
            route = self._route(oid, change.kind)
            if route.groups or route.leaving:
                self._subscriptions.learn_name(change.schema, change.table, oid)
                routes.append(route)
        return routes

    def _route(self, oid: int, kind: Kind) -> Route:
        subscriptions = self._subscriptions
        leaving = subscriptions.groups(oid, DELETE) if self._leave and kind == UPDATE else ()
        return Route(oid, kind, subscriptions.groups(oid, kind), subscriptions.version, leaving)

    # -- deciding --------------------------------------------------------------------------------------------------

    def _decide(self, candidates: Sequence[Candidate]) -> list[Decided]:
        """Who gets each candidate, and its values."""
        decided = self._audiences.decide(candidates)
        return list(zip(decided, self._values.make(decided), strict=True))

    def _write(self, candidate: Candidate, judged: Judged | None, values: Values | Unfit | None) -> list[Event]:
        change = candidate.change
        if judged is None or values is None:
            return [self._letter(change, misfit(None), change.schema, change.table, entities=(candidate.route.oid,))]
        table = judged.table
        if isinstance(values, Unfit):
            return [self._letter(change, misfit(values), table.schema, table.name, entities=(table.oid,))]
        events = self._writer.write(judged, values)
        if judged.undecided:
            reason = judged.undecided[0].reason
            events.append(self._letter(change, reason, table.schema, table.name, judged.undecided, (table.oid,)))
        return events

    def _letter(
        self,
        change: Change,
        reason: str,
        schema: str,
        table: str,
        undecided: Iterable[Undecided] = (),
        entities: Sequence[int] = (),
    ) -> Event:
        letter = self._writer.dead_letter(
            change, self._codec, reason, schema=schema, table=table, undecided=undecided, entities=entities
        )
        if self._stop_on_failure:
            raise PoisonError(
                f"change {letter.id} can never be delivered: {reason}. The position is unmoved. What to do: mend the"
                f" cause, or set on_failure: dead_letter"
            )
        log.warning("change quarantined", id=letter.id, undecided=len(tuple(undecided)))
        return letter


def misfit(values: Unfit | None) -> str:
    """Why a change that was decided so has no events at all."""
    return "the table is gone" if values is None else f"the change does not fit the table: {values.reason}"
