"""From a YAML file to a checked Config, and from a Config back to YAML (without secrets) or JSON Schema."""

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import yaml

from bridge import yaml_source
from bridge.config import Config, Limits, Section, Source
from bridge.errors import ConfigError
from bridge.naming import check_template
from bridge.pace import parse_table
from bridge.patterns import parse_pattern
from bridge.slot import second_slot
from bridge.sql import connection_fault
from bridge.units import Address, Duration, Size, Window
from bridge.yaml_source import Document

HIDDEN: Final = "********"
"""What stands in place of a secret."""

_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_AT = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_LONGEST_DOUBLED: Final = 63 - len(second_slot(""))
"""Of the name of a slot that has a second one beside it."""
_IN_DESTINATIONS: Final = ("prefix", "schema", "table")
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a mapping (key: value)",
    "null": "nothing",
}
_SECRET_KEYS = re.compile(r"password|passphrase|secret|private|key\.pem|token$|oauthbearer\.config", re.IGNORECASE)
_PASSWORD_IN_URI = re.compile(r"(://[^:/@?\s]*):.*@", re.DOTALL)
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
_SSL_OPTIONS = re.compile(r"([?&]ssl_options=)([^&]*)")
_PASSWORD_IN_CONNINFO = re.compile(r"(\b(?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|\S*)", re.IGNORECASE)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, substitute variables and check everything that can be checked without a server.

    Raises ConfigError naming the file, the line, the key path, what is wrong and what to do.
    """
    return check(yaml_source.read(path, environ))


def check(document: Document) -> Config:
    """The Config that a document describes, or ConfigError."""
    raw = {} if document.value is None else document.value
    try:
        config = _convert(raw)
    except msgspec.ValidationError as error:
        path, what = _explain(str(error), raw)
        raise document.error(path, what) from error
    for path, what in faults(config):
        raise document.error(path, what)
    return config


def _convert(raw: Any) -> Config:
    # Not strict: what a variable is replaced by is always text, also where a number is wanted.
    return msgspec.convert(raw, Config, strict=False, dec_hook=_decode)


def _decode(kind: type, value: object) -> object:
    if kind is Duration or kind is Size or kind is Window or kind is Address:
        parsed: object = kind.parse(value)
        return parsed
    raise NotImplementedError(kind)


def _explain(message: str, raw: Any) -> tuple[str, str]:
    """msgspec's message → the key path, and what is wrong in words."""
    match = _AT.fullmatch(message)
    what, path = (match[1], match[2]) if match else (message, "")
    path = _real_path(path, raw).lstrip(".")
    if unknown := _UNKNOWN.fullmatch(what):
        return f"{path}.{unknown[1]}".lstrip("."), "unknown key" + _suggestion(unknown[1], _keys_at(path))
    if missing := _MISSING.fullmatch(what):
        inner = f"{path}.{missing[1]}".lstrip(".")
        return inner, "is missing" + (" (one of kafka, rabbitmq, stdout)" if inner == "sink" else "")
    if enum := re.fullmatch(r"Invalid enum value (.*)", what):
        given = _value_at(path, raw)
        choices = _choices_at(path)
        listed = f"; one of {', '.join(choices)}" if choices else ""
        return path, f"{enum[1]} is not possible here{listed}{_suggestion(str(given), choices)}"
    words = re.sub(r"`([^`]*)`", lambda kinds: _in_words(kinds[1]), what)
    return path, words[:1].lower() + words[1:]


def _in_words(kinds: str) -> str:
    """`int | null` → a whole number or nothing."""
    return re.sub(r"\w+", lambda kind: _KINDS.get(kind[0], kind[0]), kinds).replace(" | ", " or ")


def _real_path(path: str, raw: Any) -> str:
    """msgspec writes `[...]` for a key of a free mapping: find which key it is, by trying each alone."""
    before, found, _ = path.partition("[...]")
    container = _value_at(before, raw)
    if not found or not isinstance(container, dict):
        return path
    for key, value in container.items():
        trial = copy.deepcopy(raw)
        alone = _value_at(before, trial)
        alone.clear()
        alone[key] = value
        try:
            _convert(trial)
        except msgspec.ValidationError as error:
            if f"`${before}[...]" in str(error):
                return f"{before}.{key}"
    return path


def _value_at(path: str, raw: Any) -> Any:
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(raw, dict):
            raw = raw.get(step)
        elif isinstance(raw, list) and step.isdigit() and int(step) < len(raw):
            raw = raw[int(step)]
        else:
            return None
    return raw


def _properties_at(path: str) -> dict[str, Any]:
    """The keys of the section at `path`, as the JSON Schema describes them."""
    whole = schema()
    here: dict[str, Any] = whole["$defs"]["Config"]
    for step in re.findall(r"[^.\[\]]+", path):
        here = here.get("items", {}) if step.isdigit() else here.get("properties", {}).get(step, {})
        options = [here, *here.get("anyOf", []), *here.get("allOf", [])]
        reference = next((option["$ref"] for option in options if "$ref" in option), None)
        if reference:
            here = whole["$defs"][reference.rpartition("/")[2]]
    return here


def _keys_at(path: str) -> list[str]:
    return list(_properties_at(path).get("properties", {}))


def _choices_at(path: str) -> list[str]:
    return [str(choice) for choice in _properties_at(path).get("enum", [])]


def _suggestion(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def faults(config: Config) -> Iterable[tuple[str, str]]:
    """(key path, what is wrong) for what the types alone do not say."""
    yield from _source_faults(config)
    yield from _sink_faults(config)
    if config.rls.connection is not None:
        yield from _connection_faults("rls.connection", config.rls.connection)
    if config.events.max_record_bytes < 1:
        yield "events.max_record_bytes", "must be at least 1"
    yield from _limits_faults(config.limits)
    if config.delivery == "exactly_once" and config.sink.kafka is None:
        yield "delivery", "exactly_once is possible with sink.kafka only, which has transactions; use at_least_once"


def _limits_faults(limits: Limits) -> Iterable[tuple[str, str]]:
    if limits.in_flight < 1:
        yield "limits.in_flight", "must be at least 1"
    if limits.events_per_second is not None and limits.events_per_second < 1:
        yield "limits.events_per_second", "must be at least 1; null is no limit"
    for table, rate in limits.per_table.items():
        path = f"limits.per_table.{table}"
        if rate < 1:
            yield path, "must be at least 1; a table that is to have no events belongs in source.tables.exclude"
        try:
            parse_table(table)
        except ValueError as error:
            yield path, str(error)
        else:
            yield from _quote_faults(path, table)


def _source_faults(config: Config) -> Iterable[tuple[str, str]]:
    source = config.source
    yield from _connection_faults("source.connection", source.connection)
    if not _SLOT.fullmatch(source.slot):
        yield "source.slot", "a slot's name has 1 to 63 lower-case letters, digits and underscores"
    if source.plugin == "pgoutput" and not source.publication:
        yield (
            "source.publication",
            "pgoutput needs a publication. What to do: name it; `check` prints the SQL to make it",
        )
    if source.plugin == "wal2json" and source.publication is not None:
        yield "source.publication", "wal2json has no publication. What to do: leave it out, or set plugin: pgoutput"
    if source.heartbeat < 1:
        yield "source.heartbeat", "must be at least 1s"
    yield from _replay_faults(source)
    if not source.tables.include:
        yield "source.tables.include", 'an empty list streams nothing. What to do: list tables, or "*.*" for all'
    for name, patterns in (("include", source.tables.include), ("exclude", source.tables.exclude)):
        for index, pattern in enumerate(patterns):
            yield from _pattern_faults(f"source.tables.{name}[{index}]", pattern)


def _replay_faults(source: Source) -> Iterable[tuple[str, str]]:
    window, limit = source.replay_window, source.replay_limit
    if window is not None and len(source.slot) > _LONGEST_DOUBLED:
        yield (
            "source.replay_window",
            f"{second_slot(source.slot)} is too long for a slot. What to do: let source.slot have {_LONGEST_DOUBLED} characters",
        )
    if limit is not None and window is None:
        yield "source.replay_limit", "has no meaning without source.replay_window"
    elif limit is not None and limit < max(1, window.bytes or 0 if window else 0):
        yield "source.replay_limit", "must be more than source.replay_window, which could never be kept"


def _connection_faults(path: str, connection: str) -> Iterable[tuple[str, str]]:
    if fault := connection_fault(connection):
        yield path, fault


def _sink_faults(config: Config) -> Iterable[tuple[str, str]]:
    sink = config.sink
    chosen = [name for name in ("kafka", "rabbitmq", "stdout") if getattr(sink, name) is not None]
    if len(chosen) != 1:
        found = f"found {' and '.join(chosen)}" if chosen else "found none (an empty one is written `stdout: {}`)"
        yield "sink", f"exactly one of kafka, rabbitmq and stdout is needed; {found}"
    if sink.kafka is not None:
        yield from _template_faults("sink.kafka.topic", sink.kafka.topic, _IN_DESTINATIONS)
        if not str(sink.kafka.client.get("bootstrap.servers", "")):
            yield "sink.kafka.client", "bootstrap.servers is missing"
    if sink.rabbitmq is not None:
        yield from _template_faults("sink.rabbitmq.exchange", sink.rabbitmq.exchange, _IN_DESTINATIONS)
        routing_key = sink.rabbitmq.routing_key
        yield from _template_faults("sink.rabbitmq.routing_key", routing_key, ("schema", "table", "type"), ())
        if not re.match(r"amqps?://", sink.rabbitmq.url):
            yield "sink.rabbitmq.url", "expected amqp://user:password@host:port/vhost or amqps://…"


def _template_faults(
    path: str, template: str, allowed: Iterable[str], required: Iterable[str] = ("schema", "table")
) -> Iterable[tuple[str, str]]:
    try:
        check_template(path, template, allowed, required)
    except ConfigError as error:
        yield path, str(error).removeprefix(f"{path}: ")


def _pattern_faults(path: str, pattern: str) -> Iterable[tuple[str, str]]:
    try:
        parse_pattern(pattern)
    except ValueError as error:
        yield path, f"{error} (a star stands for a whole name; a backslash before a dot or star of a name)"
    yield from _quote_faults(path, pattern)


def _quote_faults(path: str, pattern: str) -> Iterable[tuple[str, str]]:
    if '"' in re.sub(r"\\.", "", pattern):
        yield path, f"{pattern!r}: names are written as in the catalog, without quotes"


def schema() -> dict[str, Any]:
    """JSON Schema of the config file, with descriptions and defaults."""
    _, definitions = msgspec.json.schema_components([Config], schema_hook=_schema_of)
    for section in Section.__subclasses__():
        for field in msgspec.structs.fields(section):
            # msgspec leaves out the defaults of types of our own.
            if isinstance(field.default_factory, partial):
                definitions[section.__name__]["properties"][field.name]["default"] = str(field.default_factory())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/Config", "$defs": definitions}


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Duration:
        return {"type": ["string", "number"], "examples": ["500ms", "60s", "24h"]}
    if kind is Size:
        return {"type": ["string", "integer"], "examples": ["64MiB", "1GiB"]}
    if kind is Window:
        return {"type": "string", "examples": ["24h", "20GiB"]}
    if kind is Address:
        return {"type": "string", "examples": ["127.0.0.1:9187"]}
    raise NotImplementedError(kind)


def show(config: Config) -> str:
    """The config as YAML, every default written out, without secrets."""
    plain = msgspec.to_builtins(config, enc_hook=str)
    plain["sink"] = {name: sink for name, sink in plain["sink"].items() if sink is not None}
    return yaml.safe_dump(_redact(plain, ""), sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)


def _redact(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _redact(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(inner, key) for inner in value]
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_KEYS.search(key) else redact(value)
    return HIDDEN if value is not None and _SECRET_KEYS.search(key) else value


def redact(text: str) -> str:
    """`text` without the passwords that it holds as a URI or as a libpq connection string."""
    if "://" in text:
        text = _PASSWORD_IN_URI.sub(rf"\1:{HIDDEN}@", text)
        # The key of a client's certificate may have a password too.
        text = _SSL_OPTIONS.sub(
            lambda found: found[1] + (HIDDEN if "password" in unquote(found[2]) else found[2]), text
        )
        return _PASSWORD_IN_QUERY.sub(rf"\g<1>{HIDDEN}", text)
    return _PASSWORD_IN_CONNINFO.sub(rf"\g<1>{HIDDEN}", text)
