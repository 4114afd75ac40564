"""Names on the wire: destinations, routing keys, and the escaping that keeps them apart. Pure."""

import re
import string
from collections.abc import Iterable, Mapping

from bridge.errors import ConfigError, NameRefused

KAFKA_NAME_LENGTH = 249
AMQP_NAME_BYTES = 255
_KAFKA_NAME = re.compile(r"[A-Za-z0-9._-]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_]")
_ESCAPE = re.compile(rb"-([0-9A-F]{2})")
_ESCAPED = "(?:[A-Za-z0-9_]|-[0-9A-F]{2})+"


def escape(name: str) -> str:
    """Bytes outside [A-Za-z0-9_] as ``-XX`` (hex, of UTF-8; the hyphen too), so that no two names become one."""
    return _UNSAFE.sub(lambda match: b"-%02X" % match[0][0], name.encode()).decode("ascii")


def unescape(name: str) -> str:
    """What `escape` was given."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), name.encode()).decode()


def check_template(key: str, template: str, allowed: Iterable[str], required: Iterable[str]) -> None:
    """Raises ConfigError, naming the config key, where a template cannot be filled in."""
    known = ", ".join(f"{{{name}}}" for name in allowed)
    try:
        fields = [field for _, field, spec, conversion in string.Formatter().parse(template) if field is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{key}: {template!r} is no template: {error}. What to do: use {known}") from error
    unknown = [field for field in fields if field not in set(allowed)]
    if unknown:
        raise ConfigError(f"{key}: {template!r} has an unknown field, {{{unknown[0]}}}. What to do: use {known}")
    if not plain:
        raise ConfigError(
            f"{key}: {template!r} has a field with a format of its own. What to do: use {known} as they are"
        )
    missing = [name for name in required if name not in fields]
    if missing:
        raise ConfigError(
            f"{key}: {template!r} lacks {{{missing[0]}}}, so several tables would share one destination. What to do:"
            f" put it in"
        )


class Destinations:
    """Where each table's events go. A clash or a name that the broker cannot have is an error, never a guess."""

    def __init__(self, key: str, template: str, prefix: str, overrides: Mapping[str, str], *, kafka: bool) -> None:
        """`key` is the template's place in the config, for errors. Raises ConfigError."""
        check_template(key, template, ("prefix", "schema", "table"), ("schema", "table"))
        self._key = key
        self._template = template
        self._prefix = prefix
        self._overrides = dict(overrides)
        self._kafka = kafka
        self._known: dict[tuple[str, str], str] = {}
        self._taken: dict[str, str | tuple[str, str]] = {}
        """By name, as far as the broker tells names apart: the table (schema, name), or what of ours has it."""
        try:
            for label, name in overrides.items():
                self._check(label, name)
            for ours, name in (("dead letters", self.dead_letters), ("unroutable messages", f"{prefix}unrouted")):
                self._reserve(ours, name)
        except NameRefused as error:
            raise ConfigError(str(error)) from error

    @property
    def dead_letters(self) -> str:
        return f"{self._prefix}dead-letter"

    def positions(self, slot: str) -> str:
        """The topic that holds the position of a slot's stream (delivery: exactly_once).

        A table never has it: in a table's name what follows a hyphen is hexadecimal, and a dot is before the table.
        """
        return f"{self._prefix}position-{slot}"

    def may_be_a_tables(self, name: str) -> bool:
        """Whether a destination of this name is, or may be, a table's."""
        if name in self._overrides.values():
            return True
        if name == self.dead_letters:
            return False
        parts = string.Formatter().parse(self._template)
        pattern = "".join(
            re.escape(literal) + ("" if field is None else re.escape(self._prefix) if field == "prefix" else _ESCAPED)
            for literal, field, _, _ in parts
        )
        return re.fullmatch(pattern, name) is not None

    def of(self, schema: str, table: str) -> str:
        """The topic or exchange of a table. Raises NameRefused where there can be none."""
        name = self._known.get((schema, table))
        if name is None:
            label = f"{schema}.{table}"
            name = self._overrides.get(label) or self._template.format(
                prefix=self._prefix, schema=escape(schema), table=escape(table)
            )
            self._check(label, name)
            other = self._taken.setdefault(self._like(name), (schema, table))
            if other != (schema, table):
                how = "Kafka takes names that differ in . and _ only for one" if self._kafka else "they share one name"
                raise NameRefused(
                    f"the destination {name} of {label} clashes with that of"
                    f" {other if isinstance(other, str) else '.'.join(other)}: {how}. What to do: give one of them another"
                    f" name in {self._way_out}"
                )
            self._known[schema, table] = name
        return name

    def _reserve(self, ours: str, name: str) -> None:
        self._check(ours, name)
        self._taken[self._like(name)] = ours

    def of_all(self, tables: Iterable[tuple[str, str]]) -> tuple[dict[tuple[str, str], str], list[NameRefused]]:
        """The names, and why some tables can have none."""
        names: dict[tuple[str, str], str] = {}
        refused = []
        for table in tables:
            try:
                names[table] = self.of(*table)
            except NameRefused as error:
                refused.append(error)
        return names, refused

    @property
    def _way_out(self) -> str:
        return "sink.kafka.topics" if self._kafka else self._key

    def _like(self, name: str) -> str:
        return name.replace(".", "_") if self._kafka else name

    def _check(self, label: str, name: str) -> None:
        if self._kafka:
            if not _KAFKA_NAME.fullmatch(name) or name in {".", ".."}:
                raise NameRefused(
                    f"{name!r}, for {label}, cannot be a topic: Kafka allows letters, digits, dot, underscore and"
                    f" hyphen. What to do: correct sink.kafka.prefix, {self._key} or sink.kafka.topics"
                )
            if len(name) > KAFKA_NAME_LENGTH:
                raise NameRefused(
                    f"the topic of {label} would have {len(name)} characters, and Kafka allows {KAFKA_NAME_LENGTH}:"
                    f" {name}. What to do: give it a shorter one in sink.kafka.topics"
                )
        elif len(name.encode()) > AMQP_NAME_BYTES:
            raise NameRefused(
                f"the exchange of {label} would have {len(name.encode())} bytes, and AMQP allows {AMQP_NAME_BYTES}:"
                f" {name}. What to do: choose a shorter {self._key} or prefix"
            )


class RoutingKeys:
    """AMQP routing keys by table and type, each part escaped, the type in lower case."""

    def __init__(self, key: str, template: str) -> None:
        """Raises ConfigError."""
        check_template(key, template, ("schema", "table", "type"), ())
        self._template = template
        self._known: dict[tuple[str, str, str], str] = {}

    def of(self, schema: str, table: str, kind: str) -> str:
        """Raises NameRefused for a key that AMQP cannot carry."""
        made = self._known.get((schema, table, kind))
        if made is None:
            made = self._template.format(schema=escape(schema), table=escape(table), type=kind.lower())
            if len(made.encode()) > AMQP_NAME_BYTES:
                raise NameRefused(
                    f"the routing key of {schema}.{table} would have {len(made.encode())} bytes, and AMQP allows"
                    f" {AMQP_NAME_BYTES}. What to do: choose a shorter sink.rabbitmq.routing_key"
                )
            self._known[schema, table, kind] = made
        return made
