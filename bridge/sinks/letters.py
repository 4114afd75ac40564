"""What a broker must do for the dead letters that it holds: give them, and put them away one by one."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec


class Stored(msgspec.Struct, eq=False):
    """A dead letter as the broker holds it."""

    value: bytes
    messages: list[Any]
    """The broker's own, all with this value: a change that came again may have left it more than once."""


class Letters(Protocol):
    """Not connected until it is first asked. Every method raises SinkUnreachable, SinkRefused."""

    place: str
    """The topic or queue, for messages."""

    def read(self) -> list[Stored]:
        """All that are there now."""

    def count(self) -> int:
        """How many that is, as far as it can be told without taking them."""

    def settle(self, outcomes: Sequence[tuple[Stored, bytes | None]]) -> list[Stored]:
        """Take each of these away, or put another value in its place. Returns when the broker has acknowledged that.

        What the bridge has written anew since it was read is left alone, and returned.
        """

    def keep_alive(self) -> None:
        """Called now and then while nothing is asked."""

    def close(self) -> None:
        """What was not settled stays as it was."""
