"""Tells the service manager what the loop does, where it asks for that: systemd with `Type=notify` and `WatchdogSec=`.

The protocol is a datagram of lines to the socket that NOTIFY_SOCKET names:
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import math
import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger()

INTERVAL_SECONDS: Final = 15.0
"""How often `alive` is due at the latest, before streaming."""
EXTENSION_SECONDS: Final = 300
"""How much longer a start may take, from each `alive` on: as a standby it may wait for days, and then has to migrate."""
SEND_SECONDS: Final = 1.0
"""How long the manager has to take a message. The loop waits for it."""


class Supervisor:
    """The service manager. Where there is none, every call does nothing; one that does not listen is no error."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._watchdog = _watchdog_seconds(environment)
        self._interval = INTERVAL_SECONDS if self._watchdog is None else min(INTERVAL_SECONDS, self._watchdog / 4)
        self._began = False
        self._knows_ready = False
        self._deaf = False
        self.due = -math.inf if path else math.inf
        """time.monotonic() of when the loop, if it moves, is to call `alive`."""

    def alive(self, now: float) -> None:
        """The loop moves, at time.monotonic() = `now`."""
        lines = [] if self._watchdog is None else ["WATCHDOG=1"]
        if not self._began:
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}")
        elif not self._knows_ready:
            lines.append("READY=1")
        told = self._tell(*lines)
        self._knows_ready = self._knows_ready or (told and self._began)
        self.due = math.inf if self._knows_ready and self._watchdog is None else now + self._interval

    def streaming(self) -> None:
        told = self._tell("READY=1", "STATUS=streaming")
        self._knows_ready = self._knows_ready or told
        self._began = True
        if self._knows_ready and self._watchdog is None:
            self.due = math.inf

    def reconnecting(self) -> None:
        self._tell("STATUS=PostgreSQL is lost, reconnecting")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=delivering what was read")

    def _tell(self, *lines: str) -> bool:
        """Whether the manager has taken it."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(SEND_SECONDS)
                to.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._deaf:
                log.warning("the service manager cannot be told", socket="NOTIFY_SOCKET", reason=str(error))
            self._deaf = True
        else:
            self._deaf = False
        return not self._deaf


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """How long the manager waits for a sign of life; None: it does not. Not what is meant for another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
    return int(microseconds) / 1e6 if meant and microseconds.isdecimal() and int(microseconds) > 0 else None
