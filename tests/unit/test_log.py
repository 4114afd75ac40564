"""Logs: one line each, on stderr, for people or as JSON."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bridge import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_go_to_stderr_and_tell_level_time_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")

    structlog.get_logger().warning("source lost", reason="über", attempt=1)

    out, err = capsys.readouterr()
    assert out == ""
    line = json.loads(err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "source lost", "level": "warning", "reason": "über", "attempt": 1}


def test_lines_below_the_level_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("warning", "json")

    structlog.get_logger().info("hidden")

    assert capsys.readouterr().err == ""


def test_libraries_log_the_same_way_and_pika_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")

    logging.getLogger("pika.channel").warning("Received remote Channel.Close (406)")  # which our sink tells, or mends
    logging.getLogger("pika.adapters.utils").error("Socket failed to connect")  # the same
    logging.getLogger("a.library").warning("something is odd")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"]) == ("something is odd", "warning")
    assert line["logger"] == "a.library"


def test_the_console_has_no_colours_where_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")

    structlog.get_logger().info("streaming", slot="realtime")

    line = capsys.readouterr().err
    assert "streaming slot=realtime" in line
    assert "\x1b[" not in line
    assert line.count("\n") == 1


def test_the_last_message_is_plain_or_a_json_line_as_the_logs_are(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    log.failed("walrus-bridge", "no such slot", 6)
    assert capsys.readouterr().err == "walrus-bridge: no such slot\n"

    log.configure("error", "json")
    log.failed("walrus-bridge", "no such slot", 6)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["exit"]) == ("no such slot", "error", 6)
