"""What `walrus-bridge trace` finds: plain values, which `--json` prints."""

import msgspec


class FilterAnswer(msgspec.Struct, frozen=True):
    filter: str
    """As ``column op value``."""
    value: str | None
    """The change's, as text; null: NULL, or not carried."""
    passes: bool | None
    """Null: it cannot be told."""
    why: str | None
    """Where that is not plain from the value."""


class PolicyAnswer(msgspec.Struct, frozen=True):
    name: str
    permissive: bool
    expression: str
    answer: str
    """true, false, null, error, or unknown."""
    why: str | None
    """Of an error or of what is unknown."""


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """One row of realtime.subscription, and what becomes of the change for it."""

    id: int
    subscription_id: str
    role: str | None
    """Null: there is no such role."""
    subject: str | None
    """`sub` of its claims; no more of them is told."""
    action: str
    created_at: str | None
    """UTC."""
    made_after: bool
    """The subscription is younger than the change."""
    outcome: str
    """A key of OUTCOMES."""
    why: str
    filters: list[FilterAnswer]
    row_security: str | None
    """Whether row level security applies, and which row is judged; null: it was not come to."""
    policies: list[PolicyAnswer]


class Reason(msgspec.Struct, frozen=True):
    """So many subscriptions have this outcome."""

    outcome: str
    role: str | None
    subscriptions: int
    made_after: int
    """Of these, those that are younger than the change."""
    samples: list[int]
    """Ids of rows of realtime.subscription."""


class ChangeFacts(msgspec.Struct, frozen=True):
    id: str | None
    """What the ids of its events begin with; null for a row as it is now."""
    kind: str
    schema: str
    table: str
    """The one whose subscriptions are asked about: the change's own, or a partitioned table above it."""
    key: dict[str, str | None]
    lsn: str | None
    commit_lsn: str | None
    committed_at: str | None
    xid: int | None


class Trace(msgspec.Struct, frozen=True):
    change: ChangeFacts
    is_recorded: bool
    """False: the row as it is now, as if it were updated: the change itself is not in the WAL any more."""
    others: list[ChangeFacts]
    """The other changes of that row that are still in the WAL, the oldest first."""
    reasons: list[Reason]
    details: list[Detail]
    notes: list[str]


OUTCOMES = {
    "gets": "gets it",
    "leave": "hears that it is gone (leave)",
    "400": "gets error 400: the table has no primary key",
    "401": "gets error 401: the role may not SELECT the primary key",
    "undecided": "undecided: the change is a dead letter for it (with on_failure: stop, the bridge stops)",
    "action": "does not get it: it is subscribed to another action",
    "filter": "does not get it: a filter does not pass",
    "policy": "does not get it: row level security does not show the row",
    "no_role": "does not get it: its role does not exist",
    "shown": "is shown the row as it is now by row level security",
    "hidden": "is not shown the row as it is now: row level security hides it, or it is gone",
    "unrestricted": "is not subject to row level security",
    "raises": "cannot be told: a policy raises",
}
