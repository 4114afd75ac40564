"""What one change costs in the processor's instructions, those inside C too, counted by valgrind: the same on each
machine but for a thousandth. The unit is a piece of Python of the same kind, as interpreters differ.

See tests/unit/test_hot_path.py for what to do where a limit is exceeded, and where the path has become shorter.
"""

import functools
import re
import subprocess
import sys

import pytest

from tests.command import environment

# plugin, sink, rows in a transaction: yardsticks for a change
LIMITS = {
    ("wal2json", "kafka", 1_000): 4.1,
    ("pgoutput", "kafka", 1_000): 4.3,
}
COUNT = 1_000

# A fifth or so, hidden in C: each event's value is read and written once more.
PLANTED = """
import json, sys
from bridge.writer import EventWriter
from tests.unit.hot_path import main
write = EventWriter.write
def planted(*arguments):
    events = write(*arguments)
    for event in events:
        json.dumps(json.loads(event.value))
    return events
EventWriter.write = planted
main(sys.argv[1:])
"""


@functools.cache
def instructions_for_one(*what: str, program: tuple[str, str] = ("-m", "tests.unit.hot_path")) -> float:
    few, many = (_instructions(*program, *what, str(count)) for count in (COUNT, 2 * COUNT))
    return (many - few) / COUNT


def _instructions(*arguments: str) -> int:
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, sys.executable, *arguments],
        env=environment(PYTHONHASHSEED="0"),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("of", LIMITS, ids=lambda of: "-".join(map(str, of)))
def test_a_change_takes_no_more_instructions_than_it_did(of: tuple[str, str, int]) -> None:
    found = instructions_for_one(*map(str, of)) / instructions_for_one("yardstick")
    assert found < LIMITS[of]
    assert LIMITS[of] < 1.3 * found, "the hot path has become shorter: lower the limit to a tenth above"


def test_a_fifth_more_is_noticed() -> None:
    of = ("wal2json", "kafka", 1_000)
    found = instructions_for_one(*map(str, of), program=("-c", PLANTED)) / instructions_for_one("yardstick")
    assert found > LIMITS[of]
