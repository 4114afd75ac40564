"""The docs tell every command, option, exit status and configuration key."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from bridge.cli import cli, worker
from bridge.config import Config, Kafka, Queue, RabbitMQ, Section, Sink, Stdout
from bridge.errors import Exit

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = (DOCS / "commands.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from commands(inner, f"{name} {inner.name}")
    else:
        yield name, command


def section(name: str) -> str:
    """The part of commands.md about a command."""
    match = re.search(rf"^## `{re.escape(name)}`$(.*?)(?=^## )", COMMANDS, re.MULTILINE | re.DOTALL)
    assert match, f"docs/commands.md has no heading ## `{name}`"
    return match[1]


ALL_COMMANDS = [*commands(cli, "walrus-bridge"), ("walrus", worker)]


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    text = section(name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for written in parameter.opts:
                assert f"`{written}" in text or (written == "-c" and "`-c`" in COMMANDS), written


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_option_has_a_help_text_and_a_documented_environment_variable(name: str, command: click.Command) -> None:
    own = "_".join(["WALRUS_BRIDGE", *name.split()[1:]]).upper()
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in {"version", "help"}:
            assert parameter.help
            variable = str(parameter.envvar or f"{own}_{str(parameter.name).upper()}")
            assert f"`{variable}`" in COMMANDS, variable
    assert command.help


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_command_s_help_has_an_example(name: str, command: click.Command) -> None:
    """One that begins as the command does; click keeps its lines as they are."""
    _, found, examples = inspect.cleandoc(command.help or "").partition("\b\nExample")
    assert found
    assert f" {name}" in examples


@pytest.mark.parametrize("status", list(Exit), ids=lambda status: status.name)
def test_every_exit_status_is_documented(status: Exit) -> None:
    assert f"| {status.value} | `{status.name}` |" in COMMANDS


def keys(kind: type[Section], path: str, default: Any) -> Iterator[tuple[str, Any]]:
    """(key path, default); a section has none."""
    optional = {"kafka": Kafka, "rabbitmq": RabbitMQ, "stdout": Stdout, "sink": Sink}
    for field in msgspec.structs.fields(kind):
        inner = f"{path}{field.name}"
        value = getattr(default, field.name, None)
        known = optional.get(field.name)
        if known is not None or isinstance(value, Section):
            section_kind = known or type(value)
            yield inner, section_kind
            yield from keys(section_kind, f"{inner}.", None if section_kind is Sink else (value or section_kind()))
        else:
            yield inner, value


ALL_KEYS = list(keys(Config, "", Config(sink=Sink())))


ALL_KEYS += [
    (f"sink.rabbitmq.queues[].{field.name}", "" if field.required else {}) for field in msgspec.structs.fields(Queue)
]


@pytest.mark.parametrize(("path", "default"), ALL_KEYS, ids=[path for path, _ in ALL_KEYS])
def test_every_key_is_documented_with_its_default(path: str, default: Any) -> None:
    row = re.search(rf"^\| `{re.escape(path)}` \|(.*)$", CONFIGURATION, re.MULTILINE)
    if isinstance(default, type):
        assert row or re.search(rf"^#.*`{re.escape(path)}`", CONFIGURATION, re.MULTILINE)
    else:
        assert row, f"docs/configuration.md has no row for {path}"
        written = f"`{_written(default)}` " if default != "" else ""
        assert row[1].startswith(f" {written}|"), f"{path}: the default is {_written(default)}"


def _written(default: Any) -> str:
    """The default as YAML's flow style has it."""
    plain = msgspec.to_builtins(default, enc_hook=str)
    return plain if isinstance(plain, str) else json.dumps(plain)
