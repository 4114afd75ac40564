"""How far a long command has come: a bar where stderr is a terminal, else a log line now and then."""

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

import structlog

from bridge.lsn import format_lsn

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

log = structlog.get_logger()

LINE_SECONDS: Final = 5.0


class Progress:
    """From one LSN to another."""

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._total = max(1, last - first)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = self._line_at = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._show()
        return self

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.fields[events]} events"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[lsn]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=self._total, events=0, lsn=format_lsn(self._first))
        self._bar.start()
        _log_to(sys.stderr)  # which is above the bar now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            _log_to(sys.stderr)

    def told(self, events: int, lsn: int) -> None:
        """So many events so far, at this LSN. Called often."""
        done = lsn - self._first
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, events=events, lsn=format_lsn(lsn))
            return
        now = time.monotonic()
        if now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            log.info(
                "replayed so far", events=events, lsn=format_lsn(lsn), **share(done, self._total, now - self._began)
            )


def _log_to(stream: TextIO) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)


def share(done: int, total: int, seconds: float) -> dict[str, int]:
    """Per cent done, and the seconds left if it goes on as so far. Pure."""
    told = {"percent": 100 * done // total}
    return told | {"seconds_left": round(seconds * (total - done) / done)} if done else told
