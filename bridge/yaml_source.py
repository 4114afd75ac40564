"""A YAML file → plain values and where each of them stands, with variables from the environment put in.

Variables are substituted in the strings of the parsed tree, never in the text: a variable's value can hold quotes,
colons or line ends without becoming YAML.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridge.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\$|\{([^}]*)(\}?))")
_NAME_AND_DEFAULT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's true and false only: `migrations: off` is a word, as are yes, no and on."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF"))


class Document:
    """The values of a YAML file, and the line of each key path (``source.tables.include[0]``)."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.value: Any = {}
        self.lines: dict[str, int] = {}
        self._environ = environ
        self._open: set[int] = set()

    def error(self, path: str, what: str) -> ConfigError:
        """The error about the key `path`: file, line, key, what is wrong."""
        known = path
        while known and known not in self.lines:
            known = known.rpartition("[" if known.endswith("]") else ".")[0]
        place = f"{self.name}:{self.lines[known]}" if known in self.lines else self.name
        return ConfigError(f"{place}: {path}: {what}" if path else f"{place}: {what}")

    def _build(self, loader: yaml.SafeLoader, node: yaml.Node, path: str) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if id(node) in self._open:
            raise self.error(path, "an alias refers to the mapping or list that holds it")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            raise self.error(path, f"the tag {node.tag} is not possible here")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(loader, node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._build(loader, item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            value = loader.construct_object(node)
            return self._substitute(value, path) if isinstance(value, str) else value
        finally:
            self._open.discard(id(node))

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            inner = f"{path}.{key.value}" if path else str(key.value)
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.name}:{line}: a key must be a plain word")
            if key.value in seen:
                raise ConfigError(
                    f"{self.name}:{line}: {inner}: this key stands twice, first in line {seen[key.value]}"
                )
            seen[key.value] = line
        loader.flatten_mapping(node)
        built: dict[str, Any] = {}
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            built[key.value] = self._build(loader, value, inner)
            self.lines[inner] = key.start_mark.line + 1
        return built

    def _substitute(self, text: str, path: str) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            parts = _NAME_AND_DEFAULT.fullmatch(match[1])
            if parts is None or not match[2]:
                raise self.error(path, "expected ${NAME} or ${NAME:-default}; a plain dollar sign before { is $$")
            name, default = parts[1], parts[2]
            value = self._environ.get(name)
            if default is not None:
                return value or default
            if value is None:
                raise self.error(
                    path, f"the variable {name} is not defined. What to do: set it, or write ${{{name}:-default}}"
                )
            return value

        return _VARIABLE.sub(value_of, text)


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """Read and parse; ConfigError with file and line for what is no YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file. What to do: `walrus-bridge init {path}` writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path), environ)


def parse(text: str, name: str, environ: Mapping[str, str]) -> Document:
    document = Document(name, environ)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                document.value = document._build(loader, node, "")  # noqa: SLF001  (its own class)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = error.problem or error.context or "it cannot be parsed"
        raise ConfigError(f"{name}{line}: invalid YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: invalid YAML: {' '.join(str(error).split())}") from error
    return document
