"""For `walrus-bridge trace`: who gets a change and who does not, and why.

The verdicts are the bridge's own: `Audiences`, with filters and row level security as it has them. What explains them is
asked for besides, in the same snapshot (trace_detail.py).
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import psycopg

from bridge.audience import Audiences
from bridge.catalog import Catalog
from bridge.change import DELETE, INSERT, UPDATE, Change
from bridge.errors import SourceUnreachable
from bridge.filtering import Filtering
from bridge.filters import Comparer
from bridge.joined import JoinedJudge
from bridge.judged import Judged, Subscription
from bridge.judgement import both_connections
from bridge.policy_facts import PolicyFacts
from bridge.pools import Candidate, Group, Route
from bridge.rls import Judge, Outdated
from bridge.securing import Securing
from bridge.session import SourceSettings
from bridge.share import Share
from bridge.sql import Connection, is_transient, translate
from bridge.subscriptions import Subscriptions
from bridge.table import Rights, Table
from bridge.tally import Tally
from bridge.trace_detail import Explainer, Made, TellingSecuring
from bridge.trace_facts import Detail, Reason
from bridge.valuemaker import Unfit, ValueMaker
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC, Codec

T = TypeVar("T")

_TRIES, _PAUSE_SECONDS = 20, 0.25
_SAMPLES: Final = 3
"""So many subscriptions of each outcome are named, and the first of them explained."""

_HEARS: Final = {"gets", "leave", "400", "401"}
"""Outcomes with an event."""


class Answer(msgspec.Struct, frozen=True):
    table: Table
    reasons: list[Reason]
    details: list[Detail]
    notes: list[str]


class TraceJudge:
    """Both connections, as the bridge uses them, and the subscriptions as they are now."""

    def __init__(self, settings: SourceSettings, source: Connection, judging: Connection) -> None:
        self._source = source
        self._leave = settings.leave
        self._max_record_bytes = settings.max_record_bytes
        self.codec: Codec = WAL2JSON_CODEC if settings.plugin == "wal2json" else PGOUTPUT_CODEC
        self.catalog = Catalog(source)
        self.subscriptions = Subscriptions()
        tally = Tally()
        joined = JoinedJudge(judging, self.catalog, PolicyFacts(self.catalog), tally, quiet=True)
        self._judge = Judge(judging, self.catalog, tally)
        self._lossy = settings.plugin == "wal2json"
        self._current = settings.judge == "current"
        self._joined = joined
        self._use(self.codec, lossy=self._lossy, current=self._current)

    def _use(self, codec: Codec, *, lossy: bool, current: bool) -> None:
        self.codec = codec
        self._filtering = Filtering(Comparer(self._source), codec)
        securing = Securing(self._judge, self._joined, codec, current=current, lossy=lossy)
        self._apart = TellingSecuring(self._judge, None, codec, current=current, lossy=lossy)
        self._audiences = Audiences(self.catalog, self._filtering, securing)
        self._explainer = Explainer(self._filtering, self._apart, codec)
        self._values = ValueMaker(self._source, codec, self._max_record_bytes)

    def read_texts(self) -> None:
        """From now on a change's values are PostgreSQL's own texts, not the plugin's."""
        self._use(PGOUTPUT_CODEC, lossy=False, current=self._current)

    def explain(self, change: Change, oid: int, subscription_id: str | None) -> Answer | None:
        """Of all subscriptions to the table `oid`, or of those with this id, each of which is then explained. None: the
        table is gone.

        Raises SourceUnreachable, SourceRefused.
        """
        self._load(oid, subscription_id)
        made = self._made(change)
        return self._asked(change, lambda: self._explained(change, oid, subscription_id, made))

    def explain_now(self, change: Change, oid: int, subscription_id: str | None) -> Answer | None:
        """Of a row of which the key alone is known: to whom PostgreSQL shows it as it is now. Of each role's subscriptions
        the first, or those with this id."""
        self._use(PGOUTPUT_CODEC, lossy=False, current=True)
        self._load(oid, subscription_id)
        made = self._made(change)
        return self._asked(change, lambda: self._explained_now(change, oid, subscription_id, made))

    def _load(self, oid: int, subscription_id: str | None) -> None:
        """All, or only those with this id: each is judged by itself, and the others may be many."""
        everyone = Subscriptions()
        everyone.load(self._source)
        if subscription_id is None:
            self.subscriptions = everyone
            return
        self.subscriptions = Subscriptions()
        self.subscriptions.apply(each for each in _everyone(everyone, oid) if each.subscription_id == subscription_id)

    def _made(self, change: Change) -> dict[int, Made]:
        """Of each subscription when it was made, and whether after the change."""
        rows = self._source.execute(
            "select s.id, to_jsonb(s) ->> 'created_at',"
            " coalesce((to_jsonb(s) ->> 'created_at')::timestamp > %s::timestamptz at time zone 'UTC', false)"
            " from realtime.subscription s",
            (change.transaction.committed_at,),
        ).fetchall()
        return {row[0]: (row[1], row[2]) for row in rows}

    def _asked(self, change: Change, ask: Callable[[], T]) -> T:
        """In a snapshot that contains the change; again where something passing is in the way."""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            try:
                if self.catalog.begin().contains(change.transaction.xid):
                    return ask()
                error: Exception = SourceUnreachable("the change's transaction is not visible to others yet")
            except Outdated as outdated:
                error = outdated
            except psycopg.Error as raised:
                if not is_transient(raised) or self._source.closed:
                    raise
                error = raised
            finally:
                if not self._source.closed:
                    self.catalog.end()
        if isinstance(error, psycopg.Error):
            raise translate(error, "judging the change") from error
        raise SourceUnreachable(f"the change cannot be judged: {error}") from error

    def _explained(self, change: Change, oid: int, subscription_id: str | None, made: dict[int, Made]) -> Answer | None:
        table = self.catalog.tables([oid]).get(oid)
        if table is None:
            return None
        subscriptions, kind = self.subscriptions, change.kind
        groups = subscriptions.groups(oid, kind)
        leaving = subscriptions.groups(oid, DELETE) if self._leave and kind == UPDATE else ()
        route = Route(oid, kind, groups, subscriptions.version, leaving)
        (judged,) = self._audiences.decide([Candidate(change, route)])
        if judged is None:
            return None
        chosen = list(_everyone(subscriptions, oid))
        rights = self.catalog.rights([(oid, role) for role in {each.role for each in chosen}])
        by_role = {role: right for (_, role), right in rights.items()}
        outcomes, notes = self._outcomes(judged, groups, by_role), []
        (values,) = self._values.make([judged])
        if isinstance(values, Unfit):
            why = f"the change does not fit the table as it is now: {values.reason}"
            outcomes |= {each: ("undecided", why) for each, (outcome, _) in outcomes.items() if outcome in _HEARS}
        elif values is not None and values.large:
            notes.append(
                "it is larger than events.max_record_bytes: its events say 413, with the key and short values only"
            )
        found = [(each, *outcomes.get(each.id, ("action", ""))) for each in chosen]
        reasons = _counted(found, by_role, made)
        if subscription_id is None:
            first = {each.samples[0] for each in reasons}
            found = [each for each in found if each[0].id in first]
        details = [
            self._explainer.detail(judged, each, by_role.get(each.role), outcome, why, made.get(each.id, (None, False)))
            for each, outcome, why in found
        ]
        return Answer(table, reasons, details, notes)

    def _explained_now(
        self, change: Change, oid: int, subscription_id: str | None, made: dict[int, Made]
    ) -> Answer | None:
        table = self.catalog.tables([oid]).get(oid)
        if table is None:
            return None
        chosen = list(_everyone(self.subscriptions, oid))
        rights = self.catalog.rights([(oid, role) for role in {each.role for each in chosen}])
        by_role = {role: right for (_, role), right in rights.items()}
        if subscription_id is None:
            first = {each.role: each for each in reversed(chosen)}
            chosen = [each for each in chosen if first[each.role] is each]
        judged, found = Judged(change, table), []
        for each in chosen:
            right = by_role.get(each.role)
            if right is None:
                found.append((each, "no_role", ""))
                continue
            share = self._explainer.share(judged, right, msgspec.structs.replace(each, filters=()), by_old=False)
            share.buckets = [pool.plain for pool in share.pools]
            self._apart.apply([share])
            (claims,) = share.roster.listed
            raised = next(iter(share.verdict.undecided.values()), None)
            outcome = "raises" if raised else "shown" if share.verdict.shows(claims) else "hidden"
            untested = "its filters cannot be tested, as the row is not known" if each.filters else ""
            found.append((each, outcome if right.subject else "unrestricted", raised or untested))
        details = [
            self._explainer.detail(judged, each, by_role.get(each.role), outcome, why, made.get(each.id, (None, False)))
            for each, outcome, why in found
        ]
        notes = (
            [] if subscription_id else ["of each role the first subscription is told of; --subscription names another"]
        )
        return Answer(table, _counted(found, by_role, made), details, notes)

    def _outcomes(
        self, judged: Judged, groups: Iterable[Group], rights: dict[int, Rights]
    ) -> dict[int, tuple[str, str]]:
        """By row of realtime.subscription: its outcome, and more words on it."""
        change, outcomes = judged.change, {}
        shares = [
            Share(judged, rights[group.roster.role], group.roster, selected, pools, self.subscriptions.version)
            for group in groups
            if group.roster.role in rights
            for selected, pools in group.selections
        ]
        for share in shares:
            share.by_old = change.kind == DELETE
        self._filtering.apply(shares)
        passing = {bucket for share in shares for bucket in share.buckets}
        for group in groups:
            for _, pools in group.selections:
                for pool in pools:
                    for bucket in pool.buckets():
                        outcome = "policy" if bucket in passing else "filter"
                        if group.roster.role not in rights:
                            outcome = "no_role"
                        for each in bucket.everyone(self.subscriptions.version).subscriptions:
                            outcomes[each.id] = (outcome, "")
        for audience in judged.audiences:
            outcome = audience.error.split()[1].rstrip(":") if audience.error else "leave" if audience.leave else "gets"
            for each in audience.members.subscriptions:
                outcomes[each.id] = (outcome, "")
        for undecided in judged.undecided:
            outcomes[undecided.subscription.id] = ("undecided", undecided.reason)
        return outcomes


def _everyone(subscriptions: Subscriptions, oid: int) -> Iterator[Subscription]:
    """All subscriptions to a table, in the order of their ids."""
    found = {
        each.id: each
        for kind in (INSERT, UPDATE, DELETE)
        for group in subscriptions.groups(oid, kind)
        for _, pools in group.selections
        for pool in pools
        for bucket in pool.buckets()
        for each in bucket.everyone(subscriptions.version).subscriptions
    }
    return iter(sorted(found.values(), key=lambda each: each.id))


def _counted(
    found: Sequence[tuple[Subscription, str, str]],
    rights: dict[int, Rights],
    made: dict[int, Made],
) -> list[Reason]:
    groups: dict[tuple[str, str | None], list[int]] = {}
    for each, outcome, _ in found:
        right = rights.get(each.role)
        groups.setdefault((outcome, right.role if right else None), []).append(each.id)
    return [
        Reason(outcome, role, len(ids), sum(made.get(each, (None, False))[1] for each in ids), ids[:_SAMPLES])
        for (outcome, role), ids in groups.items()
    ]


@contextlib.contextmanager
def trace_judge(settings: SourceSettings) -> Iterator[tuple[TraceJudge, Connection]]:
    """With the catalog's connection. Raises SourceUnreachable, SourceRefused."""
    with both_connections(settings.connection, settings.judging_connection) as (source, judging):
        yield TraceJudge(settings, source, judging), source
