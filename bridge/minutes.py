"""What the log tells once a minute."""

import time

import structlog

from bridge.health import Health
from bridge.lsn import format_lsn
from bridge.pace import Pace

log = structlog.get_logger()

PROGRESS_SECONDS = 60.0


class Minutes:
    def __init__(self, health: Health, pace: Pace) -> None:
        self._health = health
        self._pace = pace
        self._told_at = time.monotonic()
        self._events = 0
        """How many the log has told of."""
        self._waited_seconds = 0.0
        """How much waiting it has told of."""

    def turn(self, now: float, confirmed: int, in_flight: int) -> None:
        """`confirmed`: the position that may be confirmed; `in_flight`: how many events."""
        if now - self._told_at < PROGRESS_SECONDS:
            return
        events = sum(self._health.events.values()) + sum(self._health.dead_letters.values())
        log.info(
            "progress",
            events=events - self._events,
            confirmed=format_lsn(confirmed),
            in_flight=in_flight,
            **self._held_back(),
        )
        self._events, self._told_at = events, now

    def _held_back(self) -> dict[str, float]:
        """Of the last minute, what the limits have cost; said only where there are limits."""
        waited, self._waited_seconds = self._pace.waited_seconds - self._waited_seconds, self._pace.waited_seconds
        return {"held_back_seconds": round(waited, 1)} if self._pace.is_limited else {}
