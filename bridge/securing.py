"""Row level security over a batch: leave each share the subscriptions that may see the row that decides.

Finds out as well how much of an UPDATE's old row may be shown. rls.py asks PostgreSQL.
"""

from collections.abc import Iterable, Sequence

from bridge.change import UPDATE
from bridge.judged import Cells, Undecided, is_full, line_of
from bridge.rls import Answer, Judge, Question
from bridge.share import Share
from bridge.table import Rights, Table
from bridge.values import Codec

_INEXACT = {700, 701, 1700}
"""float4, float8, numeric: wal2json writes their NaN and infinities as null."""

Places = dict[str, tuple[int, int]]
"""By claims: which question, and which of its lines."""


class Securing:
    def __init__(self, judge: Judge, codec: Codec, *, current: bool, lossy: bool) -> None:
        self._judge = judge
        self._codec = codec
        self._current = current
        """``judge: current``."""
        self._lossy = lossy
        """The plugin is wal2json: a null may have been NaN or an infinity."""

    def apply(self, shares: Sequence[Share]) -> None:
        questions = _Questions()
        waiting: list[tuple[Share, Places | None, Places | None]] = []
        for share in shares:
            if share.rights.subject and share.subscriptions:
                share.old_whole = False
                waiting.append((share, *self._questions_of(share, questions)))
        xids = {share.judged.change.transaction.xid for share, _, _ in waiting}
        answers = self._judge.ask(questions.build(), xids)
        for share, decisive, old in waiting:
            _take(share, answers, decisive, old)

    def _questions_of(self, share: Share, questions: "_Questions") -> tuple[Places | None, Places | None]:
        """Where the answers about the deciding row, and about an UPDATE's old row, will be found.

        A DELETE of which no whole old row is known, or whose policies only PostgreSQL itself can run, cannot be judged:
        it goes to all, with the primary key only.
        """
        change, table = share.judged.change, share.judged.table
        claims = list(dict.fromkeys(each.claims for each in share.subscriptions))
        if share.is_delete and not (is_full(change, table) and _sayable(share.rights)):
            return None, None
        decisive = self._ask(questions, share, share.row, claims)
        if decisive is None:
            share.subscriptions = []
            return None, None
        if share.is_delete:
            share.old_whole = True
            return decisive, None
        if change.kind == UPDATE and not share.by_old and not set(share.judged.old) <= set(table.key):
            return decisive, self._ask(questions, share, share.judged.old, claims)
        return decisive, None

    def _ask(self, questions: "_Questions", share: Share, row: Cells, claims: Iterable[str]) -> Places | None:
        """Put the question about a row; None: nobody may see it.

        Old rows are always judged as recorded: there is no current row for them.
        """
        table, rights = share.judged.table, share.rights
        is_old = row is share.judged.old
        if not any(policy.permissive for policy in rights.policies) or not rights.usage:
            return None
        absent = self._lacks(share, row)
        current = (self._current or not _sayable(rights)) and not is_old
        system = {name for policy in rights.policies for name in policy.system_columns}
        needs_current = bool(absent or system) or not _sayable(rights)
        if needs_current and is_old:
            return None
        if current or needs_current:
            reachable = bool(table.key) and set(table.key) <= row.keys() & rights.columns
            if not reachable or not (current or absent <= rights.columns):
                return None
            # Only who may select the whole table may read system columns; an ordinary table's tableoid is known.
            if not current and not rights.whole_table and system - (set() if table.partitioned else {"tableoid"}):
                return None
        # Where PostgreSQL judges the current row in place of the recorded one, they must be alike in what is judged.
        same = frozenset() if self._current or not current else _needed(share) - absent
        if not same <= rights.columns:
            return None
        line = line_of(table, row, self._codec)
        lent = frozenset() if current else absent
        return {
            each: questions.add(table, rights, each, line, lent, current or needs_current, not current, same)
            for each in claims
        }

    def _lacks(self, share: Share, row: Cells) -> frozenset[str]:
        """The columns that the policies read and the row does not carry, or not for sure."""
        needed = _needed(share)
        return frozenset(
            column.name
            for column in share.judged.table.columns
            if column.name in needed
            and (
                column.name not in row or (self._lossy and row[column.name][0] is None and column.base_oid in _INEXACT)
            )
        )


def _sayable(rights: Rights) -> bool:
    return all(policy.sayable for policy in rights.policies)


def _needed(share: Share) -> frozenset[str]:
    """The columns that the policies read."""
    needed: set[str] = set()
    for policy in share.rights.policies:
        needed |= set(share.judged.table.names) if policy.whole_row else policy.columns
    return frozenset(needed)


class _Questions:
    """The batch's questions: one for each table, role, claims and way of judging; rows that are alike once."""

    def __init__(self) -> None:
        self._lines: list[dict[str, int]] = []
        self._made: list[tuple[Table, Rights, str, frozenset[str], bool, bool, frozenset[str]]] = []
        self._index: dict[tuple[int, str, str, frozenset[str], bool, bool, frozenset[str]], int] = {}

    def add(
        self,
        table: Table,
        rights: Rights,
        claims: str,
        line: str,
        absent: frozenset[str],
        current: bool,
        record: bool,
        same: frozenset[str],
    ) -> tuple[int, int]:
        """(which question, which of its lines)"""
        key = (table.oid, rights.role, claims, absent, current, record, same)
        at = self._index.get(key)
        if at is None:
            at = self._index[key] = len(self._made)
            self._made.append((table, rights, claims, absent, current, record, same))
            self._lines.append({})
        lines = self._lines[at]
        return at, lines.setdefault(line, len(lines))

    def build(self) -> list[Question]:
        return [
            Question(table, rights.policies, rights.role, claims, tuple(lines), absent, current, record, same)
            for (table, rights, claims, absent, current, record, same), lines in zip(
                self._made, self._lines, strict=True
            )
        ]


def _take(share: Share, answers: Sequence[Answer], decisive: Places | None, old: Places | None) -> None:
    """Take the answers. The old row of an UPDATE is shown whole only where every subscription of the event was shown
    to see it: a new owner must not get the previous owner's values."""
    if decisive is not None:
        passed = []
        for subscription in share.subscriptions:
            question, line = decisive[subscription.claims]
            answer = answers[question]
            if line in answer.undecided:
                share.undecided.append(Undecided(subscription, f"policy: {answer.undecided[line]}"))
            elif line in answer.shown:
                passed.append(subscription)
        share.subscriptions = passed
    if old is not None:
        found = [old[subscription.claims] for subscription in share.subscriptions]
        share.old_whole = all(line in answers[question].shown for question, line in found)
