"""What shells ask of the command: completion as bash does it, and colours where there is a terminal."""

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import environment, program

COMPLETE = "_WALRUS_BRIDGE_COMPLETE"
# What readline does: the line's words, where the cursor is, the registered function, its answers.
BASH = """
eval "$(_WALRUS_BRIDGE_COMPLETE=bash_source walrus-bridge)" || exit 1
compopt() { :; }
COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ $(complete -p walrus-bridge) =~ -F\\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" walrus-bridge
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash offers for a line; its last word is what is being written."""

    def complete(words: str) -> list[str]:
        path = f"{Path(program()).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-c", BASH % words],
            cwd=tmp_path,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_bash_completes_commands_options_and_choices(bash: Callable[[str], list[str]]) -> None:
    assert bash("walrus-bridge sc") == ["schema"]
    assert bash("walrus-bridge migrate re") == ["revert"]
    assert bash("walrus-bridge run --acc") == ["--accept-gap"]
    assert bash("walrus-bridge schema ''") == ["events", "dead-letter", "asyncapi"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_and_its_answers(walrus_bridge: Any, shell: str) -> None:
    script = walrus_bridge(**{COMPLETE: f"{shell}_source"})
    assert script.status == 0
    assert f"{COMPLETE}={shell}_complete" in script.stdout

    # fish says the word that is being written, the others its number.
    words = {"COMP_WORDS": "walrus-bridge schema de", "COMP_CWORD": "de" if shell == "fish" else "2"}
    answers = walrus_bridge(**{COMPLETE: f"{shell}_complete"}, **words)
    assert answers.status == 0
    assert "dead-letter" in answers.stdout
    assert "events" not in answers.stdout


def test_a_shell_that_is_not_known_is_no_success(walrus_bridge: Any) -> None:
    assert walrus_bridge(**{COMPLETE: "tcsh_source"}).status != 0


@pytest.mark.parametrize("is_terminal", [True, False])
def test_colours_are_for_terminals(tmp_path: Path, is_terminal: bool) -> None:
    line = b'{"wal":{"schema":"public","table":"book","type":"INSERT","record":{"id":1}},"subscription_ids":[],"errors":[]}'
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    config = tmp_path / "bridge.yaml"
    config.write_text("sink: {stdout: {}}\n")
    subprocess.run(
        [program(), "tail", "-", "--config", str(config)],
        env=environment(),
        input=line + b"\n",
        stdout=theirs,
        check=True,
        timeout=60,
    )
    shown = os.read(ours, 10_000)
    os.close(ours), os.close(theirs)
    assert b"INSERT" in shown
    assert (b"\x1b[" in shown) == is_terminal
