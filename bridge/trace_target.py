"""What `walrus-bridge trace` is asked about: an event by its id, or a row by its table and key. Pure."""

import re
from collections.abc import Sequence

import msgspec

from bridge.errors import BridgeError, Exit
from bridge.naming import unescape

_EVENT_ID = re.compile(
    r"(?P<system>\d+)-(?P<timeline>\d+)/(?P<commit>[0-9A-F]{16})/(?P<lsn>[0-9A-F]{16})/(?P<seq>[0-9A-F]{8})"
    r"/(?P<schema>[A-Za-z0-9_-]+)\.(?P<table>[A-Za-z0-9_-]+)(?:/(?P<rest>.*))?"
)
_SUFFIX = re.compile(r"(part|retry)-[0-9a-f]{8}|leave")


class BadTarget(BridgeError):
    """The question cannot be understood."""

    exit = Exit.USAGE


class EventId(msgspec.Struct, frozen=True):
    """An event's id in parts (docs/events.md); a dead letter's has no role."""

    system_identifier: str
    timeline: int
    commit_lsn: int
    lsn: int
    seq: int
    schema: str
    table: str
    role: str | None


def parse_event_id(text: str) -> EventId | None:
    """None: it is no event's id."""
    match = _EVENT_ID.fullmatch(text)
    if match is None:
        return None
    steps = (match["rest"] or "").split("/")
    named = steps[0] if steps[0] and not _SUFFIX.fullmatch(steps[0]) else None
    role = None if named is None else unescape(named.partition("+")[0])
    return EventId(
        match["system"],
        int(match["timeline"]),
        int(match["commit"], 16),
        int(match["lsn"], 16),
        int(match["seq"], 16),
        unescape(match["schema"]),
        unescape(match["table"]),
        role,
    )


def parse_key(arguments: Sequence[str], columns: Sequence[str], table: str) -> dict[str, str]:
    """The key's values as text, by column: of ``{"id":1}``, ``id=1 lang=de``, or ``1`` where the key is one column.

    Raises BadTarget.
    """
    if not columns:
        raise BadTarget(f"{table} has no primary key, so a row cannot be named. What to do: give an event's id")
    wanted = ", ".join(columns)
    how = f"What to do: give {table}'s primary key ({wanted}) as JSON or as column=value"
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        given = _of_json(arguments[0], how)
    elif len(arguments) == 1 and len(columns) == 1 and not arguments[0].startswith(f"{columns[0]}="):
        given = {columns[0]: arguments[0]}
    else:
        # A column's name may have an equals sign in it.
        named = [(next((c for c in columns if each.startswith(f"{c}=")), None), each) for each in arguments]
        strange = [each for name, each in named if name is None]
        if strange:
            raise BadTarget(f"{strange[0]!r} is no value of the key. {how}")
        given = {name: each[len(name) + 1 :] for name, each in named if name is not None}
    if set(given) != set(columns):
        missing = [name for name in columns if name not in given] or sorted(set(given) - set(columns))
        raise BadTarget(f"{missing[0]!r} is {'missing in' if missing[0] in columns else 'not in'} the key. {how}")
    return {name: given[name] for name in columns}


def _of_json(text: str, how: str) -> dict[str, str]:
    """Numbers with every digit as they are written."""
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise BadTarget(f"{text} is no JSON object: {error}. {how}") from error
    found = {}
    for name, value in raw.items():
        plain = bytes(value).decode()
        if plain == "null":
            raise BadTarget(f"{name!r} is null, which no key is. {how}")
        found[name] = msgspec.json.decode(plain, type=str) if plain.startswith('"') else plain
    return found
