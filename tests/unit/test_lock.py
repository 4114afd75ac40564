"""What is locked runs on the oldest Python that is promised, wherever it was locked."""

import pathlib
import re
from importlib import metadata

from packaging.specifiers import SpecifierSet

LOCK = pathlib.Path(__file__).parents[2] / "requirements.lock"
OLDEST = "3.11.2"
"""Debian 12's."""


def test_every_locked_package_runs_on_the_oldest_python() -> None:
    locked = re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert len(locked) > 50
    unfit = {}
    for name, version in locked:
        assert metadata.version(name) == version
        needs = metadata.metadata(name).get("Requires-Python") or ""
        if OLDEST not in SpecifierSet(needs):
            unfit[name] = needs
    assert unfit == {}
