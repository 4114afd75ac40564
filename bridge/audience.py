"""Who gets which change, and what of it: a batch of changes with the subscriptions that want them goes in, an
audience for each role and selection comes out.

The order is that of SEMANTICS, section 2: 400 and 401 first, then filters, then row level security, row by row of
realtime.subscription. Everything is asked for the whole batch at once, inside the catalog's snapshot.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from bridge.catalog import Catalog
from bridge.change import DELETE, Kind
from bridge.filtering import Filtering
from bridge.judged import BAD_REQUEST, UNAUTHORIZED, Audience, Judged, Members, is_full
from bridge.pools import Candidate, Group, Pool, Roster, Route
from bridge.securing import Securing
from bridge.share import Share, members, undecided, whole
from bridge.table import Rights, Table

log = structlog.get_logger()


class Audiences:
    def __init__(self, catalog: Catalog, filtering: Filtering, securing: Securing) -> None:
        self._catalog = catalog
        self._filtering = filtering
        self._securing = securing
        self._missing_roles: set[int] = set()
        self._unauthorized: set[tuple[int, str, tuple[str, ...]]] = set()

    def decide(self, candidates: Sequence[Candidate]) -> list[Judged | None]:
        """For each candidate its audiences; None where the table is gone since it was looked up.

        Changes nothing of its own, so it may be tried again.
        """
        routes = dict.fromkeys([candidate.route for candidate in candidates])
        tables = self._catalog.tables(route.oid for route in routes)
        roles = {(route.oid, group.roster.role): None for route in routes for group in (*route.groups, *route.leaving)}
        rights = self._catalog.rights(list(roles))
        plans = {
            route: self._plan(table, route, rights) for route in routes if (table := tables.get(route.oid)) is not None
        }
        results: list[Judged | None] = []
        shares: list[Share | tuple[Judged, Audience]] = []
        leaves: list[tuple[Share, Share]] = []
        for candidate in candidates:
            route = candidate.route
            plan = plans.get(route)
            if plan is None:
                results.append(None)
                continue
            if not (plan.open or route.leaving):
                results.append(Judged(candidate.change, plan.table, plan.audiences))
                continue
            judged = Judged(candidate.change, plan.table)
            results.append(judged)
            shares += [step.share(judged) if isinstance(step, _Open) else (judged, step) for step in plan.steps]
            if route.leaving and is_full(candidate.change, plan.table):
                for right, group in self._by_role(route, route.leaving, rights):
                    leaves.extend(_leaves(judged, right, group, route.version))
        deciding = [share for share in shares if isinstance(share, Share)] + [
            share for pair in leaves for share in pair
        ]
        if deciding:
            self._filtering.apply(deciding)
            self._securing.apply(deciding)
        for share in shares:
            if isinstance(share, Share):
                share.judged.undecided.extend(undecided(share))
                chosen = members(share)
                if chosen.subscriptions:
                    audience = Audience(share.rights, share.selected, chosen, old_whole=share.old_whole)
                    share.judged.audiences.append(audience)
            else:
                share[0].audiences.append(share[1])
        for before, now in leaves:
            _leave(before, now)
        return results

    def _plan(self, table: Table, route: Route, rights: Mapping[tuple[int, int], Rights]) -> "_Plan":
        plan, kind, version = _Plan(table), route.kind, route.version
        for right, group in self._by_role(route, route.groups, rights):
            error = _error(table, kind, right)
            if error is not None:
                plan.add(Audience(right, None, _everyone(group, version), error))
                if error == UNAUTHORIZED:
                    self._warn_of_401(table, right)
                continue
            for selected, pools in group.selections:
                if right.subject or any(pool.filtered for pool in pools):
                    plan.steps.append(_Open(right, group.roster, selected, pools, version, by_old=kind == DELETE))
                    plan.open = True
                else:
                    everyone = whole([pool.plain for pool in pools if pool], version)
                    plan.add(Audience(right, selected, everyone))
        return plan

    def _by_role(
        self, route: Route, groups: Sequence[Group], rights: Mapping[tuple[int, int], Rights]
    ) -> list[tuple[Rights, Group]]:
        """The groups with what their role may see, in the order of the roles' names. A role that no longer exists
        gets nothing, which is said once."""
        oid, version = route.oid, route.version
        known = [(rights[oid, group.roster.role], group) for group in groups if (oid, group.roster.role) in rights]
        for group in groups:
            role = group.roster.role
            if (oid, role) not in rights and role not in self._missing_roles:
                self._missing_roles.add(role)
                everyone = _everyone(group, version)
                ids = [each.id for each in everyone.subscriptions[:10]]
                log.warning("subscriptions of a role that no longer exists get nothing", role_oid=role, ids=ids)
        return sorted(known, key=lambda each: each[0].role.encode()) if len(known) > 1 else known

    def _warn_of_401(self, table: Table, rights: Rights) -> None:
        hidden = tuple(sorted(set(table.key) - rights.columns))
        if (table.oid, rights.role, hidden) not in self._unauthorized:
            self._unauthorized.add((table.oid, rights.role, hidden))
            log.warning(
                "401: the role may not select the key",
                role=rights.role,
                schema=table.schema,
                table=table.name,
                columns=hidden,
            )


class _Open(msgspec.Struct, frozen=True, eq=False):
    """A role's and selection's part that filters or row security decide for each row."""

    rights: Rights
    roster: Roster
    selected: tuple[str, ...] | None
    pools: tuple[Pool, ...]
    version: int
    by_old: bool

    def share(self, judged: Judged) -> Share:
        return Share(judged, self.rights, self.roster, self.selected, self.pools, self.version, self.by_old)


class _Plan(msgspec.Struct, eq=False):
    """Who gets the changes of a route, as far as that does not depend on the row."""

    table: Table
    steps: list[Audience | _Open] = []
    """In the order of the events."""
    audiences: list[Audience] = []
    """All of the steps that are decided."""
    open: bool = False
    """Some are not."""

    def add(self, audience: Audience) -> None:
        if audience.members.subscriptions:
            self.steps.append(audience)
            self.audiences.append(audience)


def _error(table: Table, kind: Kind, rights: Rights) -> str | None:
    """400 and 401 win over filters and row security, and go to all of the role's subscriptions as one event."""
    if kind == DELETE:
        return None
    if not table.key:
        return BAD_REQUEST
    return None if rights.columns.issuperset(table.key) else UNAUTHORIZED


def _everyone(group: Group, version: int) -> Members:
    return whole([bucket for _, pools in group.selections for pool in pools for bucket in pool.buckets()], version)


def _leaves(judged: Judged, rights: Rights, group: Group, version: int) -> Iterable[tuple[Share, Share]]:
    """For those who may hear of it: who saw the old row, and who sees the new one."""
    if judged.table.key and rights.columns.issuperset(judged.table.key):
        for selected, pools in group.selections:
            yield (
                Share(judged, rights, group.roster, selected, pools, version, by_old=True),
                Share(judged, rights, group.roster, selected, pools, version),
            )


def _leave(before: Share, now: Share) -> None:
    """Those who saw the old row and do not see the new one hear that it is gone. Who is undecided hears nothing."""
    judged = before.judged
    known = {each.subscription for each in judged.undecided}
    for each in (*undecided(before), *undecided(now)):
        if each.subscription not in known:
            known.add(each.subscription)
            judged.undecided.append(each)
    stayed = set(members(now).subscriptions)
    left = [each for each in members(before).subscriptions if each not in stayed and each not in known]
    if left:
        audience = Audience(before.rights, before.selected, Members(left), old_whole=False, leave=True)
        judged.audiences.append(audience)
