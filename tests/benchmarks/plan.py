"""How much is measured: a quick run for a look, a full one for docs/performance.md."""

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: int
    """Of each backlog of the throughput cells."""
    rounds: int
    """Every reader of a backlog has its turn in each; a ratio is the median of the rounds' ratios."""
    subscribers: tuple[int, ...]
    row_steps: tuple[int, ...]
    """Rows of an RLS cell: the next step is taken where the last was done within `enough_seconds`."""
    enough_seconds: float
    cap_seconds: float
    """What takes longer is stopped, and reported so."""
    latency_seconds: float
    subscriptions: tuple[int, ...]
    """Of the start-up cells."""
    idle_seconds: float


QUICK = Plan(
    name="quick",
    rows=20_000,
    rounds=1,
    subscribers=(1, 1_000, 10_000),
    row_steps=(10, 100, 1_000),
    enough_seconds=0.3,
    cap_seconds=3,
    latency_seconds=2,
    subscriptions=(1, 100_000),
    idle_seconds=2,
)
FULL = Plan(
    name="full",
    rows=60_000,
    rounds=3,
    subscribers=(1, 100, 1_000, 10_000, 100_000),
    row_steps=(10, 100, 1_000, 10_000),
    enough_seconds=2,
    cap_seconds=6,
    latency_seconds=8,
    subscriptions=(1, 1_000, 100_000),
    idle_seconds=5,
)
