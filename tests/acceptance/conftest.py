"""The installed command, run as a process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests import command


@pytest.fixture
def walrus_bridge(tmp_path: Path) -> Callable[..., command.Done]:
    """`walrus_bridge("config", "check", …)` runs it to its end, in an empty folder; other keywords are variables."""
    return partial(command.run, tmp_path)


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a configuration and give its path."""

    def write(text: str) -> str:
        path = tmp_path / "bridge.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
