"""Durations, sizes and addresses as people write them in the config: ``60s``, ``64MiB``, ``127.0.0.1:9187``.

Each is a plain number or text for the code that uses it, so the unit is in the type and no stage inside parses text.
"""

import re
from datetime import datetime
from typing import Final

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]*):(\d{1,5})")

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}


def counted(number: int, noun: str) -> str:
    """``1 event``, ``2 events``"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Duration(float):
    """Seconds."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """``500ms``, ``60s``, ``5m``, ``24h``, ``7d``, or a plain number of seconds. ValueError for all else."""
        number, unit = _split(value, "a duration such as 500ms, 60s, 5m or 24h")
        if unit and unit not in _SECONDS:
            raise ValueError(f"the unit {unit!r} is no unit of time; use one of {', '.join(_SECONDS)}")
        return cls(number * _SECONDS.get(unit, 1.0))

    def __str__(self) -> str:
        for unit in ("h", "s"):
            if self and self % _SECONDS[unit] == 0:
                return f"{self / _SECONDS[unit]:.0f}{unit}"
        return f"{float(self) * 1000:g}ms"


class Size(int):
    """Bytes."""

    @classmethod
    def parse(cls, value: object) -> "Size":
        """``64MiB``, ``1GiB``, ``500kB``, or a plain number of bytes. ValueError for all else."""
        number, unit = _split(value, "a size such as 512KiB, 64MiB or 1GiB")
        if unit and unit not in _BYTES:
            raise ValueError(f"the unit {unit!r} is no unit of size; use one of {', '.join(_BYTES)}")
        return cls(round(number * _BYTES.get(unit, 1)))

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return f"{int(self)}"


class Window(str):
    """A stretch of the past: a duration, or the size of its WAL."""

    @classmethod
    def parse(cls, value: object) -> "Window":
        """``24h``, ``7d``, ``20GiB``, …; the unit tells which. ValueError for all else."""
        number, unit = _split(value, "a duration such as 24h, or a size such as 20GiB")
        if unit not in _SECONDS and unit not in _BYTES:
            raise ValueError("expected a duration such as 24h, or a size such as 20GiB, with its unit")
        if not number:
            raise ValueError("must be more than 0; null keeps nothing")
        return cls(str(value).strip())

    @property
    def seconds(self) -> float | None:
        number, unit = _split(self, "")
        return number * _SECONDS[unit] if unit in _SECONDS else None

    @property
    def bytes(self) -> int | None:
        number, unit = _split(self, "")
        return round(number * _BYTES[unit]) if unit in _BYTES else None


class Address(str):
    """host:port to listen on; ``[::1]:9187`` for IPv6, and ``:9187`` for every interface."""

    @classmethod
    def parse(cls, value: object) -> "Address":
        """ValueError for what is no host:port."""
        match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match[2]) > 65535:
            raise ValueError("expected host:port, for example 127.0.0.1:9187")
        return cls(value)

    @property
    def host(self) -> str:
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])


def parse_moment(text: str) -> datetime:
    """ISO 8601 with a zone, ``2026-11-23T03:00Z``. ValueError for all else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: write it as 2026-11-23T03:00Z") from error
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no zone, and the server's may not be yours: write 2026-11-23T03:00Z or +01:00")
    return moment


def _split(value: object, wanted: str) -> tuple[float, str]:
    usable = isinstance(value, int | float | str) and not isinstance(value, bool)
    match = _NUMBER.fullmatch(str(value).strip()) if usable else None
    if match is None:
        raise ValueError(f"expected {wanted}")
    return float(match[1]), match[2]
