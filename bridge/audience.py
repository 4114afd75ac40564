"""Who gets which change, and what of it: a batch of changes with the subscriptions that want them goes in, an
audience for each role and selection comes out.

The order is that of SEMANTICS, section 2: 400 and 401 first, then filters, then row level security, row by row of
realtime.subscription. Everything is asked for the whole batch at once, inside the catalog's snapshot.
"""

from collections.abc import Iterable, Mapping, Sequence

import structlog

from bridge.catalog import Catalog
from bridge.change import DELETE
from bridge.filtering import Filtering
from bridge.judged import BAD_REQUEST, UNAUTHORIZED, Audience, Candidate, Group, Judged, cells, is_full
from bridge.securing import Securing
from bridge.share import Share
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
        tables = self._catalog.tables(candidate.oid for candidate in candidates)
        groups = [(each.oid, group.role) for each in candidates for group in (*each.groups, *each.leaving)]
        rights = self._catalog.rights(list(dict.fromkeys(groups)))
        results: list[Judged | None] = []
        shares: list[Share] = []
        leaves: list[tuple[Share, Share]] = []
        for candidate in candidates:
            table = tables.get(candidate.oid)
            if table is None:
                results.append(None)
                continue
            judged = Judged(candidate.change, table, *cells(candidate.change, table), [], [])
            results.append(judged)
            for right, group in self._by_role(candidate.oid, candidate.groups, rights):
                shares.extend(_shares(judged, right, group))
                if shares[-1].error == UNAUTHORIZED:
                    self._warn_of_401(table, right)
            if candidate.leaving and is_full(candidate.change, table):
                for right, group in self._by_role(candidate.oid, candidate.leaving, rights):
                    leaves.extend(_leaves(judged, right, group))
        deciding = [share for share in shares if share.error is None] + [share for pair in leaves for share in pair]
        self._filtering.apply(deciding)
        self._securing.apply(deciding)
        for share in shares:
            share.judged.undecided.extend(share.undecided)
            if share.subscriptions:
                share.judged.audiences.append(
                    Audience(share.rights, share.selected, tuple(share.subscriptions), share.error, share.old_whole)
                )
        for before, now in leaves:
            _leave(before, now)
        return results

    def _by_role(
        self, oid: int, groups: Sequence[Group], rights: Mapping[tuple[int, int], Rights]
    ) -> list[tuple[Rights, Group]]:
        """The groups with what their role may see, in the order of the roles' names. A role that no longer exists
        gets nothing, which is said once."""
        known = [(rights[oid, group.role], group) for group in groups if (oid, group.role) in rights]
        for group in groups:
            if (oid, group.role) not in rights and group.role not in self._missing_roles:
                self._missing_roles.add(group.role)
                ids = [each.id for _, selection in group.selections for each in selection]
                log.warning(
                    "subscriptions of a role that no longer exists get nothing", role_oid=group.role, ids=ids[:10]
                )
        return sorted(known, key=lambda each: each[0].role.encode())

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


def _shares(judged: Judged, rights: Rights, group: Group) -> Iterable[Share]:
    """400 and 401 win over filters and row security, and go to all of the role's subscriptions as one event."""
    error = None
    if judged.change.kind != DELETE:
        if not judged.table.key:
            error = BAD_REQUEST
        elif not set(judged.table.key) <= rights.columns:
            error = UNAUTHORIZED
    if error is not None:
        everyone = [each for _, subscriptions in group.selections for each in subscriptions]
        yield Share(judged, rights, None, everyone, error)
        return
    for selected, subscriptions in group.selections:
        yield Share(judged, rights, selected, list(subscriptions), by_old=judged.change.kind == DELETE)


def _leaves(judged: Judged, rights: Rights, group: Group) -> Iterable[tuple[Share, Share]]:
    """For those who may hear of it: who saw the old row, and who sees the new one."""
    if judged.table.key and set(judged.table.key) <= rights.columns:
        for selected, subscriptions in group.selections:
            yield (
                Share(judged, rights, selected, list(subscriptions), by_old=True),
                Share(judged, rights, selected, list(subscriptions)),
            )


def _leave(before: Share, now: Share) -> None:
    """Those who saw the old row and do not see the new one hear that it is gone. Who is undecided hears nothing."""
    judged = before.judged
    known = {each.subscription for each in judged.undecided}
    for each in (*before.undecided, *now.undecided):
        if each.subscription not in known:
            known.add(each.subscription)
            judged.undecided.append(each)
    left = [each for each in before.subscriptions if each not in set(now.subscriptions) and each not in known]
    if left:
        judged.audiences.append(Audience(before.rights, before.selected, tuple(left), old_whole=False, leave=True))
