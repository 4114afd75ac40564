"""For `walrus-bridge trace`: who gets a change and who does not, and why.

The verdicts are the bridge's own: `Audiences`, with filters and row level security as it has them. What explains a verdict
is asked for besides, by the same stages: each filter as if it were a subscription's only one, each policy as if it were
the table's only one.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import psycopg

from bridge.audience import Audiences
from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.catalog import Catalog
from bridge.change import DELETE, INSERT, UPDATE, Change
from bridge.errors import SourceUnreachable
from bridge.filtering import Filtering
from bridge.filters import Comparer
from bridge.inquiry import AS_RECORDED, Way
from bridge.joined import JoinedJudge
from bridge.judged import Filter, Judged, Subscription, missing_key
from bridge.policy_facts import PolicyFacts
from bridge.pools import Candidate, Group, Pool, Roster
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.rls import Judge, Outdated
from bridge.securing import Securing, way_of
from bridge.session import SourceSettings
from bridge.share import Share
from bridge.sql import Connection, connect, is_transient, translate
from bridge.subscriptions import Subscriptions
from bridge.table import Policy, Rights, Table
from bridge.tally import Tally
from bridge.trace_facts import Detail, FilterAnswer, PolicyAnswer, Reason
from bridge.valuemaker import Unfit, ValueMaker
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC, Codec

T = TypeVar("T")
Made = dict[int, tuple[str | None, bool]]
"""By row of realtime.subscription: when it was made, and whether after the change."""

_TRIES, _PAUSE_SECONDS = 20, 0.25
_SAMPLES: Final = 3
"""So many subscriptions of each outcome are named, and the first of them explained."""

_EXPLAINED: Final = {"gets", "leave", "undecided", "filter", "policy"}
"""Outcomes that filters and policies have had a part in."""


class Answer(msgspec.Struct, frozen=True):
    table: Table
    reasons: list[Reason]
    details: list[Detail]
    notes: list[str]


class _Securing(Securing):
    """The bridge's, which also tells the way."""

    def way(self, table: Table, share: Share, policies: Sequence[Policy]) -> Way | None:
        """How the row that decides is judged by these policies; None: nobody may see it."""
        needed = frozenset[str]().union(*(table.names if each.whole_row else each.columns for each in policies))
        rights = msgspec.structs.replace(share.rights, policies=tuple(policies))
        absent = self._lacks(table, needed, share.row)
        return way_of(table, rights, share.row.keys(), absent, current=self._current, is_old=share.by_old)


class TraceJudge:
    """Both connections, as the bridge uses them, and the subscriptions as they are now."""

    def __init__(self, settings: SourceSettings, source: Connection, judging: Connection) -> None:
        self._source = source
        self._leave = settings.leave
        self._max_record_bytes = settings.max_record_bytes
        self.codec: Codec = WAL2JSON_CODEC if settings.plugin == "wal2json" else PGOUTPUT_CODEC
        self.catalog = Catalog(source)
        self.subscriptions = Subscriptions()
        export, tally = self.catalog.export, Tally()
        joined = JoinedJudge(judging, export, PolicyFacts(source), tally, quiet=True)
        self._judge = Judge(judging, export, tally)
        self._lossy = settings.plugin == "wal2json"
        self._current = settings.judge == "current"
        self._joined = joined
        self._use(self.codec, lossy=self._lossy, current=self._current)

    def _use(self, codec: Codec, *, lossy: bool, current: bool) -> None:
        self.codec = codec
        self._filtering = Filtering(Comparer(self._source), codec)
        self._securing = _Securing(self._judge, self._joined, codec, current=current, lossy=lossy)
        self._apart = _Securing(self._judge, None, codec, current=current, lossy=lossy)
        self._audiences = Audiences(self.catalog, self._filtering, self._securing)
        self._values = ValueMaker(self._source, codec, self._max_record_bytes)

    def read_texts(self) -> None:
        """From now on a change's values are PostgreSQL's own texts, not the plugin's."""
        self._use(PGOUTPUT_CODEC, lossy=False, current=self._current)

    def explain(self, change: Change, oid: int, subscription_id: str | None) -> Answer | None:
        """Of all subscriptions to the table `oid`, or of those with this id, each of which is then explained. None: the
        table is gone.

        Raises SourceUnreachable, SourceRefused.
        """
        self.subscriptions.load(self._source)
        made = self._made(change)
        return self._asked(change, lambda: self._explained(change, oid, subscription_id, made))

    def explain_now(self, change: Change, oid: int, subscription_id: str | None) -> Answer | None:
        """Of a row of which the key alone is known: to whom PostgreSQL shows it as it is now. Of each role's subscriptions
        the first, or those with this id."""
        self._use(PGOUTPUT_CODEC, lossy=False, current=True)
        self.subscriptions.load(self._source)
        made = self._made(change)
        return self._asked(change, lambda: self._explained_now(change, oid, subscription_id, made))

    def _made(self, change: Change) -> Made:
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

    def _explained(self, change: Change, oid: int, subscription_id: str | None, made: Made) -> Answer | None:
        table = self.catalog.tables([oid]).get(oid)
        if table is None:
            return None
        subscriptions, kind = self.subscriptions, change.kind
        groups = subscriptions.groups(oid, kind)
        leaving = subscriptions.groups(oid, DELETE) if self._leave and kind == UPDATE else ()
        candidate = Candidate(change, oid, groups, subscriptions.version, leaving)
        (judged,) = self._audiences.decide([candidate])
        if judged is None:
            return None
        everyone = list(_everyone(subscriptions, oid))
        rights = self.catalog.rights([(oid, role) for role in {each.role for each in everyone}])
        by_role = {role: right for (_, role), right in rights.items()}
        outcomes = self._outcomes(judged, groups, by_role)
        chosen = [each for each in everyone if subscription_id in {None, each.subscription_id}]
        found = [(each, *outcomes.get(each.id, ("action", ""))) for each in chosen]
        reasons = _counted(found, by_role, made)
        if subscription_id is None:
            first = {each.samples[0] for each in reasons}
            found = [each for each in found if each[0].id in first]
        # Filters and policies run again for what explains them; what is explained has been judged in the same snapshot.
        details = [
            self._detail(judged, each, by_role.get(each.role), outcome, why, made.get(each.id, (None, False)))
            for each, outcome, why in found
        ]
        return Answer(table, reasons, details, list(self._fit(judged)))

    def _fit(self, judged: Judged) -> Iterator[str]:
        """What would become of the event itself."""
        missing = missing_key(judged.change, judged.table)
        (values,) = [None] if missing else self._values.make([judged])
        if missing or isinstance(values, Unfit):
            why = f"it has no value for the key column {missing}" if missing else getattr(values, "reason", "")
            yield f"the change does not fit the table as it is now, so it is a dead letter for everyone: {why}"
        elif values is not None and values.large:
            yield "the change is larger than events.max_record_bytes: its events say 413, with the key and short values only"

    def _explained_now(self, change: Change, oid: int, subscription_id: str | None, made: Made) -> Answer | None:
        table = self.catalog.tables([oid]).get(oid)
        if table is None:
            return None
        everyone = list(_everyone(self.subscriptions, oid))
        rights = self.catalog.rights([(oid, role) for role in {each.role for each in everyone}])
        by_role = {role: right for (_, role), right in rights.items()}
        chosen = [each for each in everyone if subscription_id in {None, each.subscription_id}]
        if subscription_id is None:
            first = {each.role: each for each in reversed(chosen)}
            chosen = [each for each in chosen if first[each.role] is each]
        judged, found = Judged(change, table), []
        for each in chosen:
            right = by_role.get(each.role)
            if right is None:
                found.append((each, "no_role", ""))
                continue
            share = self._share(judged, right, msgspec.structs.replace(each, filters=()), by_old=False)
            share.buckets = [pool.plain for pool in share.pools]
            self._apart.apply([share])
            (claims,) = share.roster.listed
            raised = next(iter(share.verdict.undecided.values()), None)
            outcome = "raises" if raised else "shown" if share.verdict.shows(claims) else "hidden"
            found.append((each, outcome if right.subject else "unrestricted", raised or ""))
        details = [
            self._detail(judged, each, by_role.get(each.role), outcome, why, made.get(each.id, (None, False)))
            for each, outcome, why in found
        ]
        return Answer(table, _counted(found, by_role, made), details, [])

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

    # -- one subscription --------------------------------------------------------------------------------------------

    def _detail(
        self,
        judged: Judged,
        subscription: Subscription,
        rights: Rights | None,
        outcome: str,
        why: str,
        made: tuple[str | None, bool],
    ) -> Detail:
        """`rights` None: there is no such role."""
        filters: list[FilterAnswer] = []
        policies: list[PolicyAnswer] = []
        row_security = None
        if rights is not None and outcome in _EXPLAINED:
            by_old = judged.change.kind == DELETE
            filters = [self._filter(judged, rights, subscription, each, by_old=by_old) for each in subscription.filters]
            if outcome != "filter":
                row_security, policies = self._row_security(judged, rights, subscription, by_old=by_old)
        if outcome == "policy":
            why = _what_is_missing(policies)
        if outcome == "401" and rights is not None:
            hidden = [name for name in judged.table.key if name not in rights.columns]
            why = f"{rights.role} may not SELECT {', '.join(hidden)}"
        if outcome == "action":
            why = f"the change is {judged.change.kind}, and it is subscribed to {subscription.action}"
        claims = json.loads(subscription.claims)
        subject = claims.get("sub") if isinstance(claims, dict) else None
        return Detail(
            id=subscription.id,
            subscription_id=subscription.subscription_id,
            role=rights.role if rights else None,
            subject=None if subject is None else str(subject),
            action=subscription.action,
            created_at=made[0],
            made_after=made[1],
            outcome=outcome,
            why=why,
            filters=filters,
            row_security=row_security,
            policies=policies,
        )

    def _share(self, judged: Judged, rights: Rights, subscription: Subscription, *, by_old: bool) -> Share:
        """As if the subscription were the only one."""
        roster, pool = Roster(subscription.role), Pool()
        pool.add(roster.enter(subscription.claims), msgspec.structs.replace(subscription, since=0))
        return Share(judged, rights, roster, subscription.selected, (pool,), 0, by_old)

    def _filter(
        self, judged: Judged, rights: Rights, subscription: Subscription, one: Filter, *, by_old: bool
    ) -> FilterAnswer:
        alone = msgspec.structs.replace(subscription, filters=(one,))
        share = self._share(judged, rights, alone, by_old=by_old)
        self._filtering.apply([share])
        raw, type_oid = share.row.get(one.column, (None, 0))
        value = None if raw is None else self.codec.text(raw, type_oid)
        text = f"{'not ' if one.negate else ''}{one.column} {one.op} {'NULL' if one.value is None else one.value}"
        if one.column not in rights.columns:
            # The operator may know it; yet it is what the role may not see that decides, not the value.
            return FilterAnswer(text, None, False, f"{rights.role} may not SELECT {one.column}")
        if one.column not in share.row:
            old = " (of a DELETE, the replica identity's columns)" if by_old else " (an unchanged large value)"
            return FilterAnswer(text, None, False, f"the change does not carry {one.column}{old}")
        if share.undecided:
            return FilterAnswer(text, value, None, share.undecided[0].reason)
        return FilterAnswer(text, value, bool(share.buckets), None)

    def _row_security(
        self, judged: Judged, rights: Rights, subscription: Subscription, *, by_old: bool
    ) -> tuple[str, list[PolicyAnswer]]:
        if not rights.subject:
            why = "it is not on for the table" if not rights.rls_enabled else "the role owns the table, or is exempt"
            return f"does not apply to {rights.role}: {why}", []
        if not any(policy.permissive for policy in rights.policies):
            return f"no permissive policy for SELECT applies to {rights.role}, so nothing is shown", []
        alone = msgspec.structs.replace(subscription, filters=())
        share = self._share(judged, rights, alone, by_old=by_old)
        if by_old and not self._is_judged(share):
            return "of a DELETE the old row is not known or cannot be judged: all get it, with the key only", []
        way = self._securing.way(judged.table, share, rights.policies)
        return _way_in_words(way, judged.table, rights), self._policies(judged, rights, alone, by_old=by_old)

    def _is_judged(self, share: Share) -> bool:
        share.buckets = [pool.plain for pool in share.pools]
        self._apart.apply([share])
        return not share.verdict.everyone

    def _policies(
        self, judged: Judged, rights: Rights, subscription: Subscription, *, by_old: bool
    ) -> list[PolicyAnswer]:
        """Each by itself, and again for whether it is NULL."""
        asked: list[tuple[Policy, Way | None, Share, Share]] = []
        for policy in rights.policies:
            alone = msgspec.structs.replace(policy, permissive=True)
            as_null = msgspec.structs.replace(alone, expression=f"({policy.expression}) is null")
            shares = [
                self._share(judged, msgspec.structs.replace(rights, policies=(each,)), subscription, by_old=by_old)
                for each in (alone, as_null)
            ]
            for share in shares:
                share.buckets = [pool.plain for pool in share.pools]
            asked.append((policy, self._securing.way(judged.table, shares[0], [alone]), shares[0], shares[1]))
        self._apart.apply([share for _, _, *both in asked for share in both])
        return [
            PolicyAnswer(policy.name, policy.permissive, policy.expression, *_answer(way, share, null))
            for policy, way, share, null in asked
        ]


def _answer(way: Way | None, share: Share, null: Share) -> tuple[str, str | None]:
    (claims,) = share.roster.listed
    if share.verdict.undecided:
        return "error", next(iter(share.verdict.undecided.values()))
    if way is None:
        return "unknown", "it reads what neither the change nor the role can give"
    if share.verdict.shows(claims):
        return "true", None
    if way != AS_RECORDED:
        return "unknown", "it needs the row as it is now, which is gone, hidden from them or not the same any more"
    (claims,) = null.roster.listed
    return ("null", None) if null.verdict.shows(claims) else ("false", None)


def _what_is_missing(policies: Sequence[PolicyAnswer]) -> str:
    """Which of them keep the row from being shown; empty where they do not tell."""
    against = [each.name for each in policies if not each.permissive and each.answer in {"false", "null"}]
    if against:
        return f"the restrictive {'policy' if len(against) == 1 else 'policies'} {', '.join(against)} must pass"
    permissive = [each for each in policies if each.permissive]
    if permissive and all(each.answer in {"false", "null"} for each in permissive):
        return "no permissive policy passes"
    return ""


def _way_in_words(way: Way | None, table: Table, rights: Rights) -> str:
    applies = f"applies to {rights.role}"
    if way is None:
        return f"{applies}: its policies need what the change does not carry and the role may not read, so nothing is shown"
    if way == AS_RECORDED:
        return f"{applies}: the recorded row is judged"
    if way.absent:
        lacks = ", ".join(name for name in table.names if name in way.absent)
        return f"{applies}: the recorded row and the one as it is now must pass, as the change does not carry {lacks}"
    return f"{applies}: the row as it is now is judged" + (", and the recorded one" if way.record or way.same else "")


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
    made: Made,
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
    with (
        contextlib.closing(connect(settings.connection, CATALOG_SETTINGS)) as source,
        contextlib.closing(connect(settings.judging_connection or settings.connection, JUDGING_SETTINGS)) as judging,
    ):
        yield TraceJudge(settings, source, judging), source
