"""Row level security over a batch: to which claims is the row that decides shown?

Finds out as well how much of an UPDATE's old row may be shown. Who asks PostgreSQL: joined.py for many claims at once
where the policies allow it, rls.py for one at a time.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from bridge.change import UPDATE
from bridge.inquiry import Inquiries, Inquiry, Way
from bridge.joined import JoinedJudge
from bridge.judged import Cells, is_full, line_of
from bridge.rls import Judge
from bridge.share import NOBODY, Share, members
from bridge.table import Rights, Table
from bridge.values import Codec

_INEXACT = {700, 701, 1700}
"""float4, float8, numeric: wal2json writes their NaN and infinities as null."""

Place = tuple[Inquiry, int]
"""Which inquiry, and which of its lines."""


class Securing:
    def __init__(self, judge: Judge, joined: JoinedJudge | None, codec: Codec, *, current: bool, lossy: bool) -> None:
        """Without `joined`, each claims value is asked for by itself."""
        self._judge = judge
        self._joined = joined
        self._codec = codec
        self._current = current
        """``judge: current``."""
        self._lossy = lossy
        """The plugin is wal2json: a null may have been NaN or an infinity."""

    def apply(self, shares: Sequence[Share]) -> None:
        inquiries = Inquiries()
        waiting: list[tuple[Share, Place | None, Place | None]] = []
        for share in shares:
            if share.rights.subject and share.buckets:
                share.old_whole = False
                waiting.append((share, *self._questions_of(share, inquiries)))
        if not waiting:
            return
        if self._joined is not None:
            self._joined.answer(inquiries.as_recorded())
        inquiries.answer(self._judge)
        for share, decisive, old in waiting:
            if decisive is not None:
                inquiry, line = decisive
                share.verdict = inquiry.verdict(line)
            if old is not None:
                self._may_show_old(share, old)

    def _may_show_old(self, share: Share, old: Place) -> None:
        """The old row of an UPDATE is shown whole only where every subscription of the event was shown to see it: a new
        owner must not get the previous owner's values."""
        inquiry, line = old
        verdict = inquiry.verdict(line)
        share.old_whole = verdict.everyone or all(
            verdict.shows(share.roster.claims_of(each)) for each in members(share).subscriptions
        )

    def _questions_of(self, share: Share, inquiries: Inquiries) -> tuple[Place | None, Place | None]:
        """Where the answers about the deciding row, and about an UPDATE's old row, will be found.

        A DELETE of which no whole old row is known, or whose policies only PostgreSQL itself can run, cannot be judged:
        it goes to all, with the primary key only.
        """
        change, table = share.judged.change, share.judged.table
        if share.is_delete and not (is_full(change, table) and _sayable(share.rights)):
            return None, None
        decisive = self._ask(inquiries, share, share.row)
        if decisive is None:
            share.verdict = NOBODY
            return None, None
        if share.is_delete:
            share.old_whole = True
            return decisive, None
        if change.kind == UPDATE and not share.by_old and not set(share.judged.old) <= set(table.key):
            return decisive, self._ask(inquiries, share, share.judged.old)
        return decisive, None

    def _ask(self, inquiries: Inquiries, share: Share, row: Cells) -> Place | None:
        """Put the question about a row; None: nobody may see it."""
        table, rights = share.judged.table, share.rights
        needed = _needed(table, rights)
        absent = self._lacks(table, needed, row)
        way = way_of(table, rights, row.keys(), absent, current=self._current, is_old=row is share.judged.old)
        if way is None:
            return None
        read = needed.union(table.key) if way.current else needed
        return inquiries.place(share, way, line_of(table, row, self._codec, read))

    def _lacks(self, table: Table, needed: frozenset[str], row: Cells) -> frozenset[str]:
        """The columns that the policies read and the row does not carry, or not for sure."""
        if not self._lossy and needed <= row.keys():
            return frozenset()
        return frozenset(
            column.name
            for column in table.columns
            if column.name in needed
            and (
                column.name not in row or (self._lossy and row[column.name][0] is None and column.base_oid in _INEXACT)
            )
        )


def way_of(
    table: Table,
    rights: Rights,
    carried: AbstractSet[str],
    absent: frozenset[str],
    *,
    current: bool,
    is_old: bool = False,
) -> Way | None:
    """How a row is judged that carries these columns, all that policies read but for `absent`; None: nobody may see it.

    `current`: as ``judge: current`` says. Old rows are always judged as recorded: there is no current row for them.
    """
    if not any(policy.permissive for policy in rights.policies) or not rights.usage:
        return None
    by_record = not current
    current = (current or not _sayable(rights)) and not is_old
    system = {name for policy in rights.policies for name in policy.system_columns}
    needs_current = bool(absent or system) or not _sayable(rights)
    if needs_current and is_old:
        return None
    if current or needs_current:
        reachable = bool(table.key) and set(table.key) <= carried & rights.columns
        if not reachable or not (current or absent <= rights.columns):
            return None
        # Only who may select the whole table may read system columns; an ordinary table's tableoid is known.
        if not current and not rights.whole_table and system - (set() if table.partitioned else {"tableoid"}):
            return None
    # Where PostgreSQL judges the current row in place of the recorded one, they must be alike in what is judged.
    same = _needed(table, rights) - absent if by_record and current else frozenset()
    if not same <= rights.columns:
        return None
    return Way(frozenset() if current else absent, current or needs_current, not current, same)


def _sayable(rights: Rights) -> bool:
    return all(policy.sayable for policy in rights.policies)


def _needed(table: Table, rights: Rights) -> frozenset[str]:
    """The columns that the policies read."""
    if len(rights.policies) == 1 and not rights.policies[0].whole_row:
        return rights.policies[0].columns
    needed: set[str] = set()
    for policy in rights.policies:
        needed.update(table.names if policy.whole_row else policy.columns)
    return frozenset(needed)
