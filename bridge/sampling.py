"""A sink that goes nowhere: it counts events by table and keeps some, for `replay --dry-run`."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from bridge.checkpoint import Ticket
from bridge.errors import NameRefused
from bridge.event import Event
from bridge.sinks.base import Rejection, Sink

SAMPLES: Final = 2
"""How many events of a table are kept."""
_SHOWN: Final = 1000
"""How much of an event is shown."""


class SamplingSink(Sink):
    """Takes everything, and has it at once."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)
        """By table, or "dead letters"."""
        self.samples: defaultdict[str, list[Event]] = defaultdict(list)

    def open(self, tables: Iterable[tuple[str, str]]) -> list[NameRefused]:
        """Nothing to connect to."""
        return []

    def send(self, event: Event, ticket: Ticket) -> bool:
        name = "dead letters" if event.dead_letter else f"{event.schema}.{event.table}"
        self.counts[name] += 1
        if len(self.samples[name]) < SAMPLES:
            self.samples[name].append(event)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        return ()

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to leave."""

    def report(self) -> str:
        """What would have been sent, for people."""
        total = sum(self.counts.values())
        lines = [f"{total} event{'' if total == 1 else 's'} would be sent"]
        width = len(f"{max(self.counts.values(), default=0)}")
        for name, count in sorted(self.counts.items()):
            lines.append(f"  {count:{width}}  {name}")
            for event in self.samples[name]:
                text = event.value.decode()
                lines += [
                    f"  {'':{width}}    {event.id}",
                    f"  {'':{width}}    {text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}",
                ]
        return "\n".join(lines)
