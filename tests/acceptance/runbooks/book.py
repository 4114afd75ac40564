"""A runbook as a program: its commands are run in a shell, in their order, and must print what it shows.

What differs from run to run (an LSN, an id, a time) is bound to what the runbook has in its place when it is first printed,
and put into the commands that come later. What only fluctuates (a duration, a size, a process id) may be anything of its kind.
"""

import os
import pathlib
import re
import shlex
import subprocess
from collections.abc import Mapping
from typing import Final

import msgspec
from psycopg.conninfo import conninfo_to_dict

from tests.command import environment, program

RUNBOOKS: Final = pathlib.Path(__file__).parents[3] / "docs" / "runbooks"
REST: Final = "…"
"""As a line: any lines, or none. At the end of a line: anything."""
_BOUND: Final = {
    "uuid": r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
    "time": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::\d\d)?)?",
    "server": r"\b\d{15,20}(?=-\d+/[0-9A-F]{16}/)",
    "wal_file": r"\b[0-9A-F]{24}\b",
    "hex16": r"(?<=/)[0-9A-F]{16}\b",
    "hex8": r"(?<=/)[0-9A-F]{8}(?=/)",
    "lsn": r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b",
    "identifier": r"\b\d{19}\b",
}
_LOOSE: Final = {
    "pid": (r"\bpid \d+", r"pid \d+"),
    "size": (r"(?<![\w.])[\d.,]+ (?:B|KiB|MiB|GiB|kB|MB|GB|bytes)\b", r"[\d.,]+ (?:B|KiB|MiB|GiB|kB|MB|GB|bytes)"),
    "duration": (
        r"(?<![\w.])(?:\d+ (?:min|h|d) )?[\d.]+ (?:ms|s|min|h)\b",
        r"(?:\d+ (?:min|h|d) )?[\d.]+ (?:ms|s|min|h)",
    ),
    "clock": (r"\b\d:\d\d:\d\d\b", r"\d:\d\d:\d\d"),
    "gap": (r" +", r" +"),
    "rule": (r"[─━┄-]{2,}", r"[─━┄-]{2,}"),
}
_TOKEN: Final = re.compile(
    "|".join(
        [f"(?P<{kind}>{pattern})" for kind, pattern in _BOUND.items()]
        + [f"(?P<{kind}>{pattern})" for kind, (pattern, _) in _LOOSE.items()]
    )
)
_ANSWER: Final = re.compile(r"(\[y/N\]: )(\w+)\n")


class Step(msgspec.Struct, frozen=True):
    """A command with what it prints; or, where there is no command, a block of text of a language or of none."""

    command: str | None
    text: str
    language: str


def steps_of(markdown: str) -> list[Step]:
    """The fenced blocks. A line that begins with `$ ` is a command; it goes on where it ends with a backslash."""
    found: list[Step] = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        if not block.startswith("$ "):
            found.append(Step(None, block, language))
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, text = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
            found.append(Step(command.strip(), text, language))
    return found


class Runbook:
    def __init__(self, name: str, folder: pathlib.Path, variables: Mapping[str, str], path: str = "") -> None:
        """`folder`: where the commands run; `variables`: of their environment; `path`: where they are looked for first."""
        self._name = name
        self._folder = folder
        path = os.pathsep.join(filter(None, (path, str(pathlib.Path(program()).parent), os.environ["PATH"])))
        # Unbuffered: what is printed and what is logged come in the order that a terminal shows.
        self._environment = environment(PATH=path, COLUMNS="200", PSQL_PAGER="", PYTHONUNBUFFERED="1", **variables)
        self._steps = steps_of((RUNBOOKS / f"{name}.md").read_text())
        self._known: dict[str, str] = {}

    def bind(self, shown: str, actual: str) -> None:
        """What the runbook has as `shown` is `actual` here: an address, or an LSN that the reader knows from elsewhere."""
        self._known[shown] = actual

    def actual(self, shown: str) -> str:
        """What was printed in place of what the runbook shows."""
        return self._known[shown]

    def run(self, until: str | None = None, typed: str = "") -> None:
        """Run the next command, and those after it: up to a block without one, or to a command that has `until` in it.

        `typed`: what each of them is told where it asks, as for a password.
        """
        ran = 0
        while self._steps and (step := self._steps[0]).command is not None:
            if ran and until is not None and until in step.command:
                break
            self._steps.pop(0)
            self._run(step.command, step.text, typed)
            ran += 1
        assert ran, f"{self._name}: no command is next, but: {self._steps[:1]}"
        if until is not None:
            assert self._steps and until in (self._steps[0].command or ""), f"{self._name}: no command with {until!r}"

    def text(self) -> str:
        """The next block, which has no commands, with what is known put in."""
        step = self._steps.pop(0)
        assert step.command is None, f"{self._name}: a command is next: {step.command}"
        return self._put_in(step.text)

    def found_in(self, actual: str) -> None:
        """The next block, which has no commands, is part of this: of a log, for instance."""
        step = self._steps.pop(0)
        assert step.command is None, f"{self._name}: a command is next: {step.command}"
        self._match(step.text, actual, "this does not have the block", whole=False)

    def finished(self) -> None:
        assert not self._steps, f"{self._name}: not run: {self._steps}"

    def _put_in(self, text: str) -> str:
        known = "|".join(map(_whole, sorted(self._known, key=len, reverse=True)))
        return re.sub(known, lambda found: self._known[found[0]], text) if known else text

    def _run(self, command: str, expected: str, typed: str) -> None:
        command = self._put_in(command)
        answers = "".join(f"{answer}\n" for _, answer in _ANSWER.findall(expected))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            input=answers + typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,  # without a terminal, where psql would ask for a password rather than here
        )
        self._match(_ANSWER.sub(r"\1", expected), done.stdout, f"$ {command}", whole=True)
        shows_an_error = re.search(
            r"^(?:walrus-bridge: |Error|ERROR|\S+: error| +Active: (?!active))", expected, re.MULTILINE
        )
        assert done.returncode == 0 or shows_an_error, f"$ {command}\nended with {done.returncode}\n{done.stdout}"

    def _match(self, expected: str, actual: str, what: str, *, whole: bool) -> None:
        names: dict[str, str] = {}
        pattern = self._pattern(expected, names)
        actual = re.sub(r"[ \t]+$", "", actual.rstrip("\n") + "\n", flags=re.MULTILINE)
        found = re.fullmatch(pattern, actual) if whole else re.search(f"^{pattern}", actual, re.MULTILINE)
        if found is None:
            raise AssertionError(
                f"{self._name}.md: {what}\nshown:\n{expected}\nwith what is known put in:\n{self._put_in(expected)}"
                f"\nprinted:\n{actual}"
            )
        self._known |= {shown: found[name] for shown, name in names.items()}

    def _pattern(self, expected: str, names: dict[str, str]) -> str:
        """A regular expression; `names` becomes the groups that bind what is shown."""
        lines = expected.rstrip("\n").split("\n") if expected.strip() else []
        parts = []
        for line in lines:
            line = line.rstrip()
            if line.strip() == REST:
                parts.append(r"(?:.*\n)*?")
                continue
            cut = line.endswith(REST)
            body = self._line(line.removesuffix(REST), names)
            parts.append(body + (".*" if cut else "") + r"[ \t]*\n")
        return "".join(parts) or r"\s*"

    def _line(self, line: str, names: dict[str, str]) -> str:
        known = "|".join(map(_whole, sorted(self._known, key=len, reverse=True)))
        tokens = re.compile(f"(?P<known>{known})|{_TOKEN.pattern}") if known else _TOKEN
        pattern, end = "", 0
        for token in tokens.finditer(line):
            pattern += re.escape(line[end : token.start()])
            end = token.end()
            kind, shown = str(token.lastgroup), token[0]
            if kind == "known":
                pattern += re.escape(self._known[shown])
            elif kind in _LOOSE:
                pattern += _LOOSE[kind][1]
            elif shown in names:
                pattern += f"(?P={names[shown]})"
            else:
                names[shown] = f"bound{len(names)}"
                pattern += f"(?P<{names[shown]}>{_BOUND[kind]})"
        return pattern + re.escape(line[end:])


def _whole(shown: str) -> str:
    """A pattern that finds it, and not where it is a part of a longer word."""
    before = r"(?<!\w)" if re.match(r"\w", shown) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", shown) else ""
    return before + re.escape(shown) + after


def psql_variables(dsn: str) -> dict[str, str]:
    """With these psql reaches it without being told where."""
    place = conninfo_to_dict(dsn)
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname"}
    return {name: str(place[key]) for name, key in names.items()}


def script(folder: pathlib.Path, name: str, *command: str, **variables: str) -> None:
    """A program `name` in `folder` that runs `command` with its own arguments after it."""
    folder.mkdir(exist_ok=True)
    settings = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    path = folder / name
    path.write_text(f'#!/bin/sh\n{settings}exec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
