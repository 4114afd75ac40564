"""Filters over a batch: leave each share the buckets of subscriptions whose filters all pass.

A list of filters is tested once for each row, however many subscriptions have it. What Python may decide it decides at
once; the comparisons that are PostgreSQL's are collected first, each distinct pair of values once, and asked for
together.
"""

from collections.abc import Sequence

from bridge.filters import Comparer, Test, Uncomparable, python_test
from bridge.judged import Filter, Undecided
from bridge.pools import Bucket
from bridge.share import Share
from bridge.table import Column, Table
from bridge.values import Codec

_Verdict = bool | str | None
"""Passes or not; a text: why it cannot be told; None: PostgreSQL has not been asked yet."""


class Filtering:
    def __init__(self, comparer: Comparer, codec: Codec) -> None:
        self._comparer = comparer
        self._codec = codec

    def apply(self, shares: Sequence[Share]) -> None:
        """Give each share the buckets of its pools that pass."""
        batch = _Batch(self._codec)
        asking: list[tuple[Share, list[Bucket]]] = []
        for share in shares:
            waiting: list[Bucket] = []
            for pool in share.pools:
                if pool.plain.by_claims:
                    share.buckets.append(pool.plain)
                if not pool.filtered:
                    continue
                for bucket in pool.may_pass(share.judged.table, share.row, share.rights.columns, self._codec):
                    verdict = batch.verdict(share, bucket.filters)
                    if verdict is None:
                        waiting.append(bucket)
                    else:
                        _take(share, bucket, verdict)
            if waiting:
                asking.append((share, waiting))
        batch.ask(self._comparer)
        for share, waiting in asking:
            for bucket in waiting:
                _take(share, bucket, batch.verdict(share, bucket.filters))


def _take(share: Share, bucket: Bucket, verdict: _Verdict) -> None:
    if verdict is True:
        share.buckets.append(bucket)
    elif isinstance(verdict, str):
        members = bucket.everyone(share.version).subscriptions
        share.undecided.extend(Undecided(each, f"filter: {verdict}") for each in members)


class _Batch:
    """What is known of one batch's comparisons."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._tests: dict[tuple[Table, Filter], tuple[Column | None, Test | None]] = {}
        self._wanted: dict[tuple[Table, Column, str], dict[tuple[str, str], bool | None | Uncomparable]] = {}
        self._asked = False

    def verdict(self, share: Share, filters: Sequence[Filter]) -> _Verdict:
        """All filters are ANDed: one that fails decides, whatever cannot be told of the others."""
        reason: str | None = None
        waiting = False
        for one in filters:
            found = self._one(share, one)
            if found is False:
                return False
            if isinstance(found, str):
                reason = found
            waiting = waiting or found is None
        return None if waiting else reason if reason is not None else True

    def _one(self, share: Share, one: Filter) -> _Verdict:
        table = share.judged.table
        known = self._tests.get((table, one))
        op, turned = one.plain
        if known is None:
            column = next((each for each in table.columns if each.name == one.column), None)
            test = None if column is None else python_test(column, op, one.value)
            known = self._tests[table, one] = (column, test)
        column, test = known
        cell = share.row.get(one.column)
        # A column that the change does not carry, or that the role may no longer SELECT: closed.
        if column is None or cell is None or one.column not in share.rights.columns:
            return False
        raw, type_oid = cell
        text = None if raw is None else self._codec.text(raw, type_oid)
        answer: bool | None | Uncomparable
        if test is not None and (type_oid == column.type_oid or op == "is"):
            answer = test(text)
        elif text is None or one.value is None:
            answer = (text is None) != (one.value is None) if op == "isdistinct" else None
        else:
            pairs = self._wanted.setdefault((table, column, op), {})
            if not self._asked:
                pairs[text, one.value] = None
                return None
            answer = pairs[text, one.value]
        if isinstance(answer, Uncomparable):
            return str(answer)
        return answer is not None and answer is not turned

    def ask(self, comparer: Comparer) -> None:
        for (_, column, op), pairs in self._wanted.items():
            pairs.update(zip(pairs, comparer.compare(column, op, list(pairs)), strict=True))
        self._asked = True
