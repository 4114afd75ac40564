"""No runbook without a test that runs its commands."""

import pathlib

from tests.acceptance.runbooks.book import RUNBOOKS, Step, steps_of

HERE = pathlib.Path(__file__).parent


def test_each_runbook_has_a_test() -> None:
    runbooks = {path.stem for path in RUNBOOKS.glob("*.md")}
    tests = {path.stem.removeprefix("test_").replace("_", "-") for path in HERE.glob("test_*.py")}

    assert runbooks == tests - {"all"}


def test_a_runbook_shows_commands_only_where_they_are_run() -> None:
    """That is in fenced blocks: not in indented ones, and not behind something else."""
    for path in RUNBOOKS.glob("*.md"):
        inside = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("```"):
                inside = not inside
                continue
            assert inside or not line.lstrip().startswith(("$ ", "```")), f"{path.name}:{number}"
            assert inside or not line.startswith("    "), f"{path.name}:{number}: an indented block"


def test_a_block_is_cut_into_commands_with_what_they_print() -> None:
    text = "Text\n\n```\n$ a \\\n    b\none\n\ntwo\n$ c\n```\n\n```sql\nselect 1\n```\n"

    assert steps_of(text) == [
        Step("a \\\n    b", "one\n\ntwo\n", ""),
        Step("c", "", ""),
        Step(None, "select 1\n", "sql"),
    ]
