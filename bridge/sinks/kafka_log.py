"""librdkafka's log lines, as ours."""

import structlog

log = structlog.get_logger()


class LibraryLog:
    """What confluent-kafka takes for a logger: it calls `log` from `poll`."""

    def __init__(self, client: str) -> None:
        self._client = client

    def log(self, level: int, _template: str, facility: str, _name: str, message: str) -> None:
        log.log(level, "librdkafka", client=self._client, facility=facility, message=message)
