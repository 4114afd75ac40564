"""Who gets which change, and what of it: a batch of changes with the subscriptions that want them goes in, an
audience for each role and selection comes out.

The order is that of SEMANTICS, section 2: 400 and 401 first, then filters, then row level security, row by row of
realtime.subscription. Everything is asked for the whole batch at once, inside the catalog's snapshot.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from bridge.catalog import Catalog
from bridge.change import DELETE, UPDATE
from bridge.filters import Comparer, Test, Uncomparable, python_test
from bridge.judged import (
    BAD_REQUEST,
    UNAUTHORIZED,
    Audience,
    Candidate,
    Cells,
    Filter,
    Group,
    Judged,
    Subscription,
    Undecided,
    cells,
    is_full,
)
from bridge.rls import Answer, Judge, Question
from bridge.table import Column, Rights, Table
from bridge.values import Codec, record_literal

log = structlog.get_logger()

_INEXACT = {700, 701, 1700}
"""float4, float8, numeric: wal2json writes their NaN and infinities as null."""

class _Share(msgspec.Struct, eq=False):
    """One role's and selection's share of a candidate while it is being decided."""

    judged: Judged
    rights: Rights
    selected: tuple[str, ...] | None
    subscriptions: list[Subscription]
    error: str | None = None
    judge_new: bool = False
    judge_old: bool = False
    old_whole: bool = True


class Audiences:
    def __init__(self, catalog: Catalog, comparer: Comparer, judge: Judge, codec: Codec, *, current: bool, lossy: bool):
        self._catalog = catalog
        self._comparer = comparer
        self._judge = judge
        self._codec = codec
        self._current = current
        self._lossy = lossy
        """The plugin is wal2json: a null may have been NaN or an infinity."""
        self._missing_roles: set[int] = set()

    def decide(self, candidates: Sequence[Candidate]) -> list[Judged | None]:
        """For each candidate its audiences; None where the table or the change is no longer fit to be judged
        (gone since it was looked up). Changes nothing of its own, so it may be tried again."""
        tables = self._catalog.tables({candidate.oid for candidate in candidates})
        pairs = list({(candidate.oid, group.role) for candidate in candidates for group in candidate.groups})
        rights = self._catalog.rights(pairs) if pairs else {}
        results: list[Judged | None] = []
        shares: list[_Share] = []
        for candidate in candidates:
            table = tables.get(candidate.oid)
            if table is None:
                results.append(None)
                continue
            judged = Judged(candidate.change, table, *cells(candidate.change, table), [], [])
            results.append(judged)
            known = [(rights[pair], group) for group in candidate.groups if (pair := (candidate.oid, group.role)) in rights]
            if len(known) < len(candidate.groups):
                self._warn_of_missing_roles(candidate, rights)
            for right, group in sorted(known, key=lambda each: each[0].role.encode()):
                shares.extend(_shares(judged, right, group))
        self._filter([share for share in shares if share.error is None])
        self._secure([share for share in shares if share.error is None and share.subscriptions])
        for share in shares:
            if share.subscriptions:
                share.judged.audiences.append(
                    Audience(share.rights, share.selected, tuple(share.subscriptions), share.error, share.old_whole)
                )
        return results

    def _warn_of_missing_roles(self, candidate: Candidate, rights: Mapping[tuple[int, int], Rights]) -> None:
        """A role that no longer exists gets nothing; said once for each."""
        for group in candidate.groups:
            if (candidate.oid, group.role) not in rights and group.role not in self._missing_roles:
                self._missing_roles.add(group.role)
                ids = [each.id for _, selection in group.selections for each in selection]
                log.warning("subscriptions of a role that no longer exists get nothing", role_oid=group.role, ids=ids[:10])

    # -- filters ---------------------------------------------------------------------------------------------------

    def _filter(self, shares: Sequence[_Share]) -> None:
        """Leave each share the subscriptions whose filters pass."""
        filtered = [share for share in shares if any(each.filters for each in share.subscriptions)]
        if not filtered:
            return
        tests: dict[tuple[int, Filter], Test | None] = {}
        answers: dict[tuple[int, str, str, str, str], bool | None | Uncomparable] = {}
        asked: dict[tuple[int, str, str], tuple[Column, dict[tuple[str, str], None]]] = {}
        for final in (False, True):
            for share in filtered:
                table = share.judged.table
                row = share.judged.old if share.judged.change.kind == DELETE else share.judged.new
                columns = {column.name: column for column in table.columns}
                passed: list[Subscription] = []
                for subscription in share.subscriptions:
                    verdict: bool | str = True
                    for one in subscription.filters:
                        column = columns.get(one.column)
                        if column is None or one.column not in row or one.column not in share.rights.columns:
                            verdict = False
                            break
                        raw, type_oid = row[one.column]
                        text = None if raw is None else self._codec.text(raw, type_oid)
                        op, turned = one.plain
                        if (table.oid, one) not in tests:
                            tests[table.oid, one] = python_test(column, op, one.value)
                        test = tests[table.oid, one] if type_oid == column.type_oid or op == "is" else None
                        answer: bool | None | Uncomparable
                        if test is not None:
                            answer = test(text)
                        elif text is None or one.value is None:
                            answer = (text is None) != (one.value is None) if op == "isdistinct" else None
                        else:
                            key = (table.oid, one.column, op)
                            if not final:
                                asked.setdefault(key, (column, {}))[1][text, one.value] = None
                                continue
                            answer = answers[*key, text, one.value]
                        if isinstance(answer, Uncomparable):
                            verdict = str(answer)
                        elif answer is None or answer is turned:
                            verdict = False
                            break
                    if verdict is True:
                        passed.append(subscription)
                    elif final and isinstance(verdict, str):
                        share.judged.undecided.append(Undecided(subscription, f"filter: {verdict}"))
                if final:
                    share.subscriptions = passed
            if not final:
                for (oid, name, op), (column, wanted) in asked.items():
                    pairs = list(wanted)
                    for (text, value), answer in zip(pairs, self._comparer.compare(column, op, pairs), strict=True):
                        answers[oid, name, op, text, value or ""] = answer

    # -- row level security ----------------------------------------------------------------------------------------

    def _secure(self, shares: Sequence[_Share]) -> None:
        """Leave each share the subscriptions that may see the row, and find how much of the old row they may."""
        questions = _Questions()
        waiting: list[tuple[_Share, dict[str, tuple[int, int]] | None, dict[str, tuple[int, int]] | None]] = []
        for share in shares:
            if not share.rights.subject:
                continue
            change, table = share.judged.change, share.judged.table
            share.old_whole = False
            claims = dict.fromkeys(each.claims for each in share.subscriptions)
            new = old = None
            if change.kind != DELETE:
                new = self._ask(questions, share, share.judged.new, claims, current=self._current)
                if new is None:
                    share.subscriptions = []
                    continue
                if not set(share.judged.old) <= set(table.key):
                    old = self._ask_old(questions, share, claims)
            elif is_full(change, table):
                old = self._ask_old(questions, share, claims)
                if old is None:
                    share.subscriptions = []
                    continue
                share.old_whole = True
            waiting.append((share, new, old))
        answers = self._judge.ask(questions.build(), {share.judged.change.transaction.xid for share, _, _ in waiting})
        for share, new, old in waiting:
            _apply(share, answers, new, old)

    def _ask_old(self, questions: "_Questions", share: _Share, claims: Iterable[str]) -> dict[str, tuple[int, int]] | None:
        """Old rows are always judged as recorded: there is no current row for them."""
        if self._lacks(share, share.judged.old) or any(policy.system_columns for policy in share.rights.policies):
            return None
        return self._ask(questions, share, share.judged.old, claims, current=False)

    def _ask(
        self, questions: "_Questions", share: _Share, row: Cells, claims: Iterable[str], *, current: bool
    ) -> dict[str, tuple[int, int]] | None:
        """Where the answer for each claims will be found; None: nobody may see it."""
        table, rights = share.judged.table, share.rights
        if not any(policy.permissive for policy in rights.policies) or not rights.usage:
            return None
        absent = self._lacks(share, row)
        system = any(policy.system_columns for policy in rights.policies)
        if current or absent or system:
            reachable = table.key and set(table.key) <= set(row) & rights.columns
            if not reachable or (absent and not current and not absent <= rights.columns):
                return None
        line = record_literal(
            [
                None if (cell := row.get(name)) is None or cell[0] is None else self._codec.text(cell[0], cell[1])
                for name in table.names
            ]
        )
        return {
            each: questions.add(
                table, rights, each, line, frozenset() if current else absent, current or bool(absent) or system, not current
            )
            for each in claims
        }

    def _lacks(self, share: _Share, row: Cells) -> frozenset[str]:
        """The columns that the policies read and the row does not carry, or not for sure."""
        table = share.judged.table
        needed: set[str] = set()
        for policy in share.rights.policies:
            needed |= set(table.names) if policy.whole_row else policy.columns
        return frozenset(
            column.name
            for column in table.columns
            if column.name in needed
            and (
                column.name not in row
                or (self._lossy and row[column.name][0] is None and column.base_oid in _INEXACT)
            )
        )


class _Questions:
    """The batch's questions: one for each table, role, claims and way of judging; rows that are alike once."""

    def __init__(self) -> None:
        self._lines: list[dict[str, int]] = []
        self._made: list[tuple[Table, Rights, str, frozenset[str], bool, bool]] = []
        self._index: dict[tuple[int, str, str, frozenset[str], bool, bool], int] = {}

    def add(
        self, table: Table, rights: Rights, claims: str, line: str, absent: frozenset[str], current: bool, record: bool
    ) -> tuple[int, int]:
        """(which question, which of its lines)"""
        key = (table.oid, rights.role, claims, absent, current, record)
        at = self._index.get(key)
        if at is None:
            at = self._index[key] = len(self._made)
            self._made.append((table, rights, claims, absent, current, record))
            self._lines.append({})
        lines = self._lines[at]
        return at, lines.setdefault(line, len(lines))

    def build(self) -> list[Question]:
        return [
            Question(table, rights.policies, rights.role, claims, tuple(lines), absent, current, record)
            for (table, rights, claims, absent, current, record), lines in zip(self._made, self._lines, strict=True)
        ]


def _apply(
    share: _Share,
    answers: Sequence[Answer],
    new: dict[str, tuple[int, int]] | None,
    old: dict[str, tuple[int, int]] | None,
) -> None:
    """Take the answers: a DELETE is shown by its old row, all else by the new one; the old row of an UPDATE is shown
    whole only where every subscription of the event may see it."""
    decisive = old if share.judged.change.kind == DELETE else new
    if decisive is not None:
        passed = []
        for subscription in share.subscriptions:
            question, line = decisive[subscription.claims]
            answer = answers[question]
            if line in answer.undecided:
                share.judged.undecided.append(Undecided(subscription, f"policy: {answer.undecided[line]}"))
            elif line in answer.shown:
                passed.append(subscription)
        share.subscriptions = passed
    if share.judged.change.kind == UPDATE and old is not None:
        found = [old[subscription.claims] for subscription in share.subscriptions]
        share.old_whole = all(line in answers[question].shown for question, line in found)


def _shares(judged: Judged, rights: Rights, group: Group) -> Iterable[_Share]:
    """400 and 401 win over filters and row security, and go to all of the role's subscriptions as one event."""
    error = None
    if judged.change.kind != DELETE:
        if not judged.table.key:
            error = BAD_REQUEST
        elif not set(judged.table.key) <= rights.columns:
            error = UNAUTHORIZED
    if error is not None:
        everyone = [each for _, subscriptions in group.selections for each in subscriptions]
        yield _Share(judged, rights, None, everyone, error)
        return
    for selected, subscriptions in group.selections:
        yield _Share(judged, rights, selected, list(subscriptions))
