"""What the preflight check finds: one finding for each thing that must hold."""

from typing import Literal

import msgspec

from bridge.errors import BridgeError

Level = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    name: str
    """What was looked at: a config key, or a word."""
    level: Level
    what: str
    """What is so."""
    remedy: str | None = None
    """What to do, where it is not ok."""


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def warning(name: str, what: str, remedy: str) -> Finding:
    return Finding(name, "warning", what, remedy)


def error(name: str, what: str, remedy: str) -> Finding:
    return Finding(name, "error", what, remedy)


def of_error(name: str, raised: BridgeError) -> Finding:
    """An error as a finding; its message says what to do after those words."""
    what, _, remedy = str(raised).partition("What to do: ")
    return Finding(name, "error", what.rstrip(" ."), remedy or None)
