"""For `walrus-bridge trace`: why a change reaches one subscription or does not.

Each filter is asked as if it were the subscription's only one, each policy as if it were the table's only one, by the same
stages that the bridge judges with.
"""

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from bridge.change import DELETE
from bridge.filtering import Filtering
from bridge.inquiry import AS_RECORDED, Way
from bridge.judged import Filter, Judged, Subscription
from bridge.pools import Pool, Roster
from bridge.securing import Securing, way_of
from bridge.share import Share
from bridge.table import Policy, Rights, Table
from bridge.trace_facts import Detail, FilterAnswer, PolicyAnswer
from bridge.values import Codec

_EXPLAINED: Final = {"gets", "leave", "undecided", "filter", "policy"}
"""Outcomes that filters and policies have had a part in."""


Made = tuple[str | None, bool]
"""When a subscription was made, and whether after the change."""


class TellingSecuring(Securing):
    """The bridge's, which also tells the way."""

    def way(self, table: Table, share: Share, policies: Sequence[Policy]) -> Way | None:
        """How the row that decides is judged by these policies; None: nobody may see it."""
        needed = frozenset[str]().union(*(table.names if each.whole_row else each.columns for each in policies))
        rights = msgspec.structs.replace(share.rights, policies=tuple(policies))
        absent = self._lacks(table, needed, share.row)
        return way_of(table, rights, share.row.keys(), absent, current=self._current, is_old=share.by_old)


class Explainer:
    def __init__(self, filtering: Filtering, securing: TellingSecuring, codec: Codec) -> None:
        """`securing` asks for each claims value by itself."""
        self._filtering = filtering
        self._securing = securing
        self._codec = codec

    def detail(
        self,
        judged: Judged,
        subscription: Subscription,
        rights: Rights | None,
        outcome: str,
        why: str,
        made: Made,
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
            why = (
                _what_is_missing(policies) or "each policy by itself may pass, but what all of them need cannot be had"
            )
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

    def share(self, judged: Judged, rights: Rights, subscription: Subscription, *, by_old: bool) -> Share:
        """As if the subscription were the only one."""
        roster, pool = Roster(subscription.role), Pool()
        pool.add(roster.enter(subscription.claims), msgspec.structs.replace(subscription, since=0))
        return Share(judged, rights, roster, subscription.selected, (pool,), 0, by_old)

    def _filter(
        self, judged: Judged, rights: Rights, subscription: Subscription, one: Filter, *, by_old: bool
    ) -> FilterAnswer:
        alone = msgspec.structs.replace(subscription, filters=(one,))
        share = self.share(judged, rights, alone, by_old=by_old)
        self._filtering.apply([share])
        raw, type_oid = share.row.get(one.column, (None, 0))
        value = None if raw is None else self._codec.text(raw, type_oid)
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
        alone = msgspec.structs.replace(subscription, filters=())
        share = self.share(judged, rights, alone, by_old=by_old)
        if by_old and not self._is_judged(share):
            return "of a DELETE the old row is not known or cannot be judged: all get it, with the key only", []
        if not any(policy.permissive for policy in rights.policies):
            return f"no permissive policy for SELECT applies to {rights.role}, so nothing is shown", []
        way = self._securing.way(judged.table, share, rights.policies)
        return _way_in_words(way, judged.table, rights), self._policies(judged, rights, alone, by_old=by_old)

    def _is_judged(self, share: Share) -> bool:
        share.buckets = [pool.plain for pool in share.pools]
        self._securing.apply([share])
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
                self.share(judged, msgspec.structs.replace(rights, policies=(each,)), subscription, by_old=by_old)
                for each in (alone, as_null)
            ]
            for share in shares:
                share.buckets = [pool.plain for pool in share.pools]
            asked.append((policy, self._securing.way(judged.table, shares[0], [alone]), shares[0], shares[1]))
        self._securing.apply([share for _, _, *both in asked for share in both])
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
