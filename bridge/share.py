"""One role's and selection's share of a change while it is being decided. Pure."""

from collections.abc import Collection, Mapping

import msgspec

from bridge.change import DELETE
from bridge.judged import Cells, Judged, Members, Subscription, Undecided
from bridge.pools import Bucket, Claims, Pool, Roster
from bridge.table import Rights


class Verdict(msgspec.Struct, frozen=True, eq=False):
    """To which claims of a role row security shows a row: numbers in the role's roster."""

    everyone: bool = False
    shared: frozenset[int] = frozenset()
    """Those to whom every row of the batch is shown."""
    own: Collection[int] = ()
    """And those to whom this one is."""
    undecided: Mapping[int, str] = {}
    """For whom a policy raised, with the reason."""

    def shows(self, claims: Claims) -> bool:
        return self.everyone or claims.number in self.shared or claims.number in self.own


EVERYONE = Verdict(everyone=True)
NOBODY = Verdict()


class Share(msgspec.Struct, eq=False):
    """Filters leave of its pools the buckets that pass; row security says to which of their claims the row is shown."""

    judged: Judged
    rights: Rights
    roster: Roster
    selected: tuple[str, ...] | None
    pools: tuple[Pool, ...]
    version: int
    """Of the subscriptions, at the change's place in the stream."""
    by_old: bool = False
    """It is the old row that decides: of a DELETE, or of an UPDATE for those who could see it before."""
    buckets: list[Bucket] = msgspec.field(default_factory=list)
    """Those whose filters pass."""
    verdict: Verdict = EVERYONE
    old_whole: bool = True
    """Of the old row all identity columns may be shown, not the primary key only."""
    undecided: list[Undecided] = msgspec.field(default_factory=list)
    """Those of whom a filter could not tell."""

    @property
    def row(self) -> Cells:
        """The row that decides."""
        return self.judged.old if self.by_old else self.judged.new

    @property
    def is_delete(self) -> bool:
        return self.judged.change.kind == DELETE


def whole(buckets: Collection[Bucket], version: int) -> Members:
    """All who are in these buckets at this version."""
    if len(buckets) == 1:
        return next(iter(buckets)).everyone(version)
    return Members(each for bucket in buckets for each in bucket.everyone(version).subscriptions)


def members(share: Share) -> Members:
    """The subscriptions that are to have the event."""
    verdict = share.verdict
    if verdict.everyone:
        return whole(share.buckets, share.version)
    shown: Collection[int] = verdict.own
    if verdict.shared:
        shown = verdict.shared.union(verdict.own) if verdict.own else verdict.shared
    return Members(_of(share, shown))


def undecided(share: Share) -> list[Undecided]:
    """Those of whom filters or row security could not tell."""
    by_policy = [
        Undecided(each, f"policy: {reason}")
        for number, reason in share.verdict.undecided.items()
        for each in _of(share, (number,))
    ]
    return share.undecided + by_policy


def _of(share: Share, numbers: Collection[int]) -> list[Subscription]:
    """The subscriptions of these claims in the share's buckets, at its version: by whichever are fewer."""
    listed, version = share.roster.listed, share.version
    found: list[Subscription] = []
    for bucket in share.buckets:
        if len(numbers) <= len(bucket.by_claims):
            wanted = [listed[number] for number in numbers]
        else:
            wanted = [claims for claims in bucket.by_claims if claims.number in numbers]
        for claims in wanted:
            found += bucket.of(claims, version)
    return found
