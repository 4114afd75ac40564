"""Which exchanges and queues must be there before anything is published, and declaring them one by one.

Works on a channel of its own: a declaration that the broker refuses closes its channel, and must not take unconfirmed
messages with it.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog

from bridge.errors import SinkRefused

log = structlog.get_logger()

NOT_FOUND, ACCESS_REFUSED, PRECONDITION_FAILED = 404, 403, 406


class Declaration(msgspec.Struct, frozen=True):
    kind: Literal["exchange", "queue", "binding"]
    name: str
    """The exchange's or queue's; for a binding the queue's."""
    as_found: bool = False
    """What is there already is taken as it is, whatever its settings."""
    exchange: str = ""
    pattern: str = ""

    @property
    def label(self) -> str:
        return (
            f"{self.kind} of queue {self.name} to {self.exchange}"
            if self.kind == "binding"
            else f"{self.kind} {self.name}"
        )


def exchange(name: str) -> Declaration:
    """A durable topic exchange without arguments, as a consumer may have declared it first."""
    return Declaration("exchange", name)


def exchange_as_found(name: str) -> Declaration:
    return Declaration("exchange", name, as_found=True)


def queue(name: str) -> Declaration:
    return Declaration("queue", name, as_found=True)


def binding(queue_name: str, exchange_name: str, pattern: str) -> Declaration:
    return Declaration("binding", queue_name, False, exchange_name, pattern)


class Topology:
    """Wanted, done, and the one that is being asked for."""

    def __init__(self) -> None:
        self._wanted: dict[Declaration, None] = {}
        self._done: set[Declaration] = set()
        self._current: Declaration | None = None
        self._passive = False
        """Whether the current one only asks if it is there."""
        self._refused: dict[Declaration, str] = {}
        """What cannot be declared, and why: it may be there already."""

    def want(self, declaration: Declaration) -> None:
        self._wanted[declaration] = None

    @property
    def is_complete(self) -> bool:
        return len(self._done) == len(self._wanted)

    @property
    def missing(self) -> str:
        return next((each.label for each in self._wanted if each not in self._done), "nothing")

    def forget(self) -> None:
        """The broker may not have them any more: all are declared again."""
        self._done.clear()
        self._refused.clear()

    def detach(self) -> None:
        """The channel is gone, for a reason that says nothing of the current one."""
        self._current = None

    def step(self, channel: Any) -> None:
        """Ask for the next one, unless an answer is awaited. `channel` is pika's, open."""
        if self._current is not None or self.is_complete:
            return
        each = self._current = next(each for each in self._wanted if each not in self._done)
        self._passive = each in self._refused
        if each.kind == "exchange":
            channel.exchange_declare(
                each.name, "topic", passive=self._passive, durable=True, callback=self._done_with(each)
            )
        elif each.kind == "queue":
            channel.queue_declare(each.name, passive=self._passive, durable=True, callback=self._done_with(each))
        else:
            channel.queue_bind(each.name, each.exchange, each.pattern, callback=self._done_with(each))

    def refused(self, code: int, text: str) -> SinkRefused | None:
        """The broker closed the channel: what is wrong, or None where it is enough that the thing is there."""
        each, self._current = self._current, None
        if each is None:
            return None
        may_be_there = code == ACCESS_REFUSED or (code == PRECONDITION_FAILED and each.as_found)
        if may_be_there and each.kind != "binding" and not self._passive:
            self._refused[each] = text
            return None
        return SinkRefused(_explained(each, code, self._refused.get(each, text), text))

    def _done_with(self, declaration: Declaration) -> Callable[[object], None]:
        def done(_: object) -> None:
            if self._current is declaration:
                self._current = None
                self._done.add(declaration)
                log.debug("declared", what=declaration.label)

        return done


def _explained(each: Declaration, code: int, first: str, last: str) -> str:
    if code == PRECONDITION_FAILED:
        return (
            f"{each.label} is there already, but not as a durable topic exchange: {last}. What to do: delete it, or"
            " choose other names by sink.rabbitmq.exchange and sink.rabbitmq.prefix"
        )
    if code in {NOT_FOUND, ACCESS_REFUSED} and each.kind != "binding":
        kind = "durable queue" if each.kind == "queue" else "durable topic exchange"
        return (
            f"{each.label} is missing, and this login may not declare it: {first}. What to do: grant it the configure"
            f" permission, or make the {kind} yourself"
        )
    return f"RabbitMQ refuses the {each.label}: {last}. What to do: correct sink.rabbitmq, or the login's permissions"
