"""librdkafka's log lines, as ours."""

import logging
import time
from typing import Final

import structlog

log = structlog.get_logger()

_AGAIN_SECONDS: Final = 5.0


class LibraryLog:
    """What confluent-kafka takes for a logger: it calls `log` from `poll`.

    A broker that refuses connections makes a line for each attempt, many a second: of each kind one in a while is kept.
    """

    def __init__(self, client: str) -> None:
        self._client = client
        self.is_quiet = False
        """Another client of the same brokers says the same: debug."""
        self._not_before: dict[str, float] = {}

    def log(self, level: int, _template: str, facility: str, _name: str, message: str) -> None:
        now = time.monotonic()
        if now < self._not_before.get(facility, 0.0):
            return
        self._not_before[facility] = now + _AGAIN_SECONDS
        # Its "info" is an attempt that failed and is made again.
        level = level if level >= logging.WARNING and not self.is_quiet else logging.DEBUG
        log.log(level, "librdkafka", client=self._client, facility=facility, message=message)
