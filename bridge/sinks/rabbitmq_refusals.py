"""What RabbitMQ refuses for now (a nack: a queue is full), and when it is offered again. Pure: no I/O, the clock is given.

A refused message waits here, apart from the others, which go on. So it may be overtaken by a later one.
"""

from typing import Final

from bridge.backoff import Backoff
from bridge.sinks.rabbitmq_window import Outgoing

REFUSED_SECONDS: Final = 60.0
"""An event that is refused again and again for so long is given up (`on_failure`); a dead letter never is."""
REFUSED_MESSAGES: Final = 2000
"""When so many wait, nothing new is taken."""
_LONGEST_PAUSE_SECONDS: Final = 5.0


class Refusals:
    def __init__(self, seconds: float, messages: int) -> None:
        """`seconds`: for how long an event is offered again; `messages`: how many may wait."""
        self._seconds = seconds
        self._messages = messages
        self._waiting: list[Outgoing] = []
        self._backoff = Backoff(longest_seconds=_LONGEST_PAUSE_SECONDS)
        self._offer_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._messages

    def add(self, message: Outgoing, now: float) -> bool:
        """Keep it for later. False: it has been refused for too long, and is not kept."""
        if message.waited_seconds >= self._seconds and not message.event.dead_letter:
            return False
        message.refused_at = now
        self._waiting.append(message)
        return True

    def pause(self, now: float) -> float | None:
        """Begin a pause, unless one is under way. A broker that refuses one mostly refuses the next: one for all."""
        if now < self._offer_at:
            return None
        seconds = self._backoff.pause_seconds()
        self._offer_at = now + seconds
        return seconds

    def taken(self, message: Outgoing) -> None:
        """The broker has confirmed it: if it had been refused, there is room again."""
        if message.refused_at is not None:
            message.refused_at, message.waited_seconds = None, 0.0
            self._backoff.reset()

    def due(self, now: float) -> list[Outgoing]:
        """What is to be offered again now, oldest first; what there is no room for goes back by `keep`.

        To be called only while messages can go: the time that a broker is away, blocks or leaves unanswered is not one
        in which it refuses, and does not count.
        """
        if now < self._offer_at:
            return []
        due, self._waiting = sorted(self._waiting, key=lambda message: message.number), []
        for message in due:
            message.waited_seconds += min(now - (message.refused_at or now), _LONGEST_PAUSE_SECONDS)
            message.refused_at = now
        return due

    def keep(self, messages: list[Outgoing]) -> None:
        self._waiting = messages + self._waiting
