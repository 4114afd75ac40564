"""What AsyncAPI 3.0.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0) asks of the objects that our documents
have, as a JSON Schema. Closed: a field that is not listed here is one that the specification does not know, or that nobody
has looked up yet."""

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_REFERENCE = {
    "type": "object",
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "required": ["$ref"],
    "additionalProperties": False,
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _by_name(of: Any, names: str = r"^[\w.+\-]+$") -> dict[str, Any]:
    return {"type": "object", "additionalProperties": of, "propertyNames": {"pattern": names}}


_SERVER = _object(
    ("host", "protocol"),
    host=_TEXT,
    protocol=_TEXT,
    pathname=_TEXT,
    description=_TEXT,
)
_CHANNEL = _object(
    address={"type": ["string", "null"]},
    description=_TEXT,
    messages=_by_name(_REFERENCE),
    parameters=_by_name(_object(description=_TEXT, enum={"type": "array", "items": _TEXT}, default=_TEXT)),
    bindings={"type": "object"},
)
_OPERATION = _object(
    ("action", "channel"),
    action={"enum": ["send", "receive"]},
    channel=_REFERENCE,
    messages={"type": "array", "items": _REFERENCE},
    description=_TEXT,
    bindings={"type": "object"},
)
_MESSAGE = _object(
    name=_TEXT,
    title=_TEXT,
    summary=_TEXT,
    description=_TEXT,
    contentType=_TEXT,
    headers={"type": "object"},
    payload={"type": "object"},
    bindings={"type": "object"},
)

DOCUMENT = _object(
    ("asyncapi", "info", "channels", "operations", "components"),
    asyncapi={"const": "3.0.0"},
    info=_object(("title", "version"), title=_TEXT, version=_TEXT, description=_TEXT),
    defaultContentType=_TEXT,
    servers=_by_name(_SERVER),
    channels=_by_name(_CHANNEL),
    operations=_by_name(_OPERATION),
    components=_object(messages=_by_name(_MESSAGE), schemas=_by_name({"type": "object"})),
)
