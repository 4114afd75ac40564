"""One role's and selection's share of a change while it is being decided. Pure."""

import msgspec

from bridge.change import DELETE
from bridge.judged import Cells, Judged, Subscription, Undecided
from bridge.table import Rights


class Share(msgspec.Struct, eq=False):
    """Filters and row security take away from `subscriptions` those that are not to have the event."""

    judged: Judged
    rights: Rights
    selected: tuple[str, ...] | None
    subscriptions: list[Subscription]
    error: str | None = None
    """400 or 401: neither filters nor row security count."""
    by_old: bool = False
    """It is the old row that decides: of a DELETE, or of an UPDATE for those who could see it before."""
    old_whole: bool = True
    """Of the old row all identity columns may be shown, not the primary key only."""
    undecided: list[Undecided] = msgspec.field(default_factory=list)

    @property
    def row(self) -> Cells:
        """The row that decides."""
        return self.judged.old if self.by_old else self.judged.new

    @property
    def is_delete(self) -> bool:
        return self.judged.change.kind == DELETE
