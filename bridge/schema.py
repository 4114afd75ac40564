"""What the bridge writes, as JSON Schemas. Pure. What each field means: docs/events.md.

Only words that draft 07 and draft 2020-12 share are used, and no references: so the same schemas stand by themselves, and in
an AsyncAPI document (asyncapi.py), whose own schemas are a superset of draft 07.
"""

from typing import Any, Final

from bridge.event import PAYLOAD_TOO_LARGE
from bridge.judged import BAD_REQUEST, UNAUTHORIZED

Schema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_LSN: Final = "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"
_ID: Final = "^[0-9]+-[0-9]+/[0-9A-F]{16}/[0-9A-F]{16}/[0-9A-F]{8}/.+$"
_UUID: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_SECONDS: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}"


def _object(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """Nothing else is in it, and all of it but what is optional."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        **more,
    }


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", **more, "description": description}


def _list(items: Schema, description: str, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more, "description": description}


_SCHEMA = _text("The table's schema.")
_TABLE = _text("The table's name.")
_COMMITTED = _text("When the transaction committed: UTC, milliseconds.", pattern=_SECONDS + r"\.\d{3}Z$")
_COLUMNS = _list(
    _object({"name": _text("The column's name."), "type": _text("pg_type.typname, such as int4 or _text.")}),
    "The columns that the role may SELECT and that were selected, in the table's order; the primary key always.",
)
_RECORD: Final[Schema] = {
    "type": "object",
    "description": "The new row by column, as to_jsonb gives it. A column of `columns` that is absent is an unchanged TOAST"
    " value, or was left out by error 413. Numbers keep every digit.",
}
_OLD_RECORD: Final[Schema] = {
    "type": "object",
    "description": "The replica identity's columns before the change; the primary key only, where row level security hides"
    " the rest.",
}
_SUBSCRIPTION_IDS = _list({"type": "string", "pattern": _UUID}, "Whom this event is for.", minItems=1, uniqueItems=True)


def _errors(*said: str) -> Schema:
    """Exactly these."""
    if not said:
        return {"type": "array", "maxItems": 0, "description": "Nothing is amiss."}
    return _list({"enum": list(said)}, "What is amiss.", minItems=1, maxItems=1)


def _value(wal: Schema, errors: Schema, title: str) -> Schema:
    enabled = {"type": "boolean", "description": "Whether row level security is on for the table."}
    parts = {"wal": wal, "is_rls_enabled": enabled, "subscription_ids": _SUBSCRIPTION_IDS, "errors": errors}
    return _object(parts, title=title)


def _change(kind: str, rows: Schema, optional: tuple[str, ...] = ()) -> Schema:
    head = {"schema": _SCHEMA, "table": _TABLE, "type": {"const": kind}}
    wal = _object({**head, "commit_timestamp": _COMMITTED, "columns": _COLUMNS, **rows}, optional)
    return _value(wal, {"oneOf": [_errors(), _errors(PAYLOAD_TOO_LARGE)]}, kind)


def _refused() -> Schema:
    wal = _object({"schema": _SCHEMA, "table": _TABLE, "type": {"enum": ["INSERT", "UPDATE"]}})
    return _value(wal, _errors(BAD_REQUEST, UNAUTHORIZED), "A change of which nothing may be told")


def event() -> Schema:
    """Of an event's value."""
    return {
        "title": "Event",
        "description": "One change of one row, for the subscribers of one role.",
        "oneOf": [
            _change("INSERT", {"record": _RECORD}),
            _change("UPDATE", {"record": _RECORD, "old_record": _OLD_RECORD}, ("old_record",)),
            _change("DELETE", {"old_record": _OLD_RECORD}),
            _refused(),
        ],
    }


def dead_letter() -> Schema:
    """Of a dead letter's value. Open to further fields: they help those who mend the cause."""
    undecided = {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "description": "Of the row of realtime.subscription."},
            "subscription_id": _text("Its subscription id.", pattern=_UUID),
            "reason": _text("Why it could not be decided."),
        },
        "required": ["id", "subscription_id", "reason"],
    }
    change = {
        "type": "object",
        "properties": {
            "type": {"enum": ["INSERT", "UPDATE", "DELETE"]},
            "commit_timestamp": _text("When the transaction committed.", pattern=_SECONDS),
            "record": _RECORD,
            "old_record": _OLD_RECORD,
        },
        "required": ["type"],
        "description": "The change, its values as PostgreSQL's text; or that of an event which the broker cannot take.",
    }
    letter = {
        "type": "object",
        "properties": {
            "reason": _text("Why it is here."),
            "id": _text("Of the change: no role is in it.", pattern=_ID),
            "lsn": _text("The change's own.", pattern=_LSN),
            "commit_lsn": _text("Its transaction's.", pattern=_LSN),
            "schema": _SCHEMA,
            "table": _TABLE,
            "undecided": _list(
                undecided, "The subscriptions that could not be decided; empty: the whole change is here."
            ),
            "undelivered": _list({"type": "string"}, "The subscription ids that a part was for."),
            "role": {"type": ["string", "null"], "description": "Of an event that the broker cannot take."},
            "change": change,
            "truncated": {"const": True, "description": "Values were left out, as the letter was too large."},
        },
        "required": ["reason", "id", "lsn", "commit_lsn", "schema", "table", "undecided", "change"],
    }
    return {
        "title": "Dead letter",
        "description": "A change that can never succeed, or the subscriptions for which it cannot be decided.",
        "type": "object",
        "properties": {"dead_letter": letter},
        "required": ["dead_letter"],
        "additionalProperties": False,
    }


def event_headers() -> Schema:
    """Of an event's headers, all of them text."""
    parts = {
        **_common_headers(),
        "role": _text("The role that the event was made for; absent in dead letters."),
        "unchanged_toast": _text("A JSON list of columns that an UPDATE left as they were, and `record` lacks."),
        "leave": {"const": "true", "description": "The row is still there, and out of the subscribers' sight."},
        "part": _text("Which part of an event, of how many.", pattern=r"^\d+/\d+$"),
        "replayed": {"const": "true", "description": "Sent again by `walrus-bridge replay`."},
    }
    return {"type": "object", "properties": parts, "required": [*_common_headers(), "role"]}


def dead_letter_headers() -> Schema:
    """Of a dead letter's headers."""
    return {"type": "object", "properties": _common_headers(), "required": list(_common_headers())}


def _common_headers() -> Schema:
    return {
        "id": _text("The same whenever it comes: drop what you have processed. Sorts as changes do.", pattern=_ID),
        "lsn": _text("The change's own.", pattern=_LSN),
        "commit_lsn": _text("Its transaction's.", pattern=_LSN),
        "seq": _text("Counts the changes that share an LSN.", pattern=r"^\d+$"),
        "xid": _text("The transaction.", pattern=r"^\d+$"),
        "commit_timestamp": _text("When it committed: UTC, microseconds.", pattern=_SECONDS + r"\.\d{6}Z$"),
        "schema": _SCHEMA,
        "table": _TABLE,
        "type": {"enum": ["INSERT", "UPDATE", "DELETE"]},
        "content-type": {"const": "application/json"},
    }


def document(name: str) -> Schema:
    """A schema by itself: `events` or `dead-letter`."""
    return {"$schema": _DIALECT, **{"events": event, "dead-letter": dead_letter}[name]()}
