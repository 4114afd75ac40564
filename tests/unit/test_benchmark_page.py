"""The benchmark's tables, page and picture, from results that are not measured."""

from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from tests.benchmarks.page import page, picture
from tests.benchmarks.plan import QUICK
from tests.benchmarks.report import sections

WHERE = {"transport": "TCP", "plugin": "wal2json", "rows_per_transaction": 1, "against": "pg_recvlogical"}
RESULTS: dict[str, Any] = {
    "measured_at": "2026-11-25",
    "machine": {"cores": "2"},
    "plan": msgspec.to_builtins(QUICK),
    "throughput": [
        WHERE
        | {"to": "kafka", "ratio": 0.5, "lowest": 0.4, "highest": 0.6, "changes_per_second": 100.0}
        | {"reference_per_second": 200.0, "cpu_us_per_change": 12.34},
        WHERE | {"to": "rabbitmq", "capped": True},
    ],
    "stages": [
        {"plugin": "pgoutput", "rows_per_transaction": 1_000, "decode": 1.0, "judge": 2.0, "write": 3.0}
        | {"stdout": 7.0, "kafka": 8.04}
    ],
    "rls": [
        {"policy": "owner", "subscribers": 1, "rows": 10, "changes_per_second": 5.0, "us_per_change": 2e5}
        | {"us_per_decision": 2e5, "original_us_per_change": 1e5, "ratio": 0.5},
        {"policy": "owner", "subscribers": 100, "capped_at_rows": 10, "original_capped": True},
    ],
}


def test_a_ratio_is_shown_with_what_it_is_made_of() -> None:
    (_, table), *_ = sections(RESULTS)
    assert "| kafka | wal2json | 1 | TCP | pg_recvlogical | **0.50** | 0.40 – 0.60 | 100 | 200 | 12.3 |" in table


def test_a_cell_whose_time_was_up_has_no_number() -> None:
    tables = dict(sections(RESULTS))
    assert "| rabbitmq | wal2json | 1 | TCP | pg_recvlogical | time was up |  |  |  |  |" in tables["Throughput"]
    assert "| owner | 100 | time was up at 10 |  |  |  | time was up |  |" in tables["Row level security"]


def test_the_stages_are_shown_to_a_tenth_of_a_microsecond() -> None:
    assert "| pgoutput | 1,000 | 1.0 | 2.0 | 3.0 | 7.0 | 8.0 |" in dict(sections(RESULTS))["Where the time goes"]


def test_a_goal_is_told_with_whether_it_is_reached() -> None:
    table = dict(sections(RESULTS))["Goals"]
    assert (
        "| wal2json to Kafka over TCP, 1-row transactions, of pg_recvlogical | at least 1.0 | 0.50 | **no** |" in table
    )
    assert "RabbitMQ" not in table


def test_only_what_was_measured_is_on_the_page() -> None:
    made = page(RESULTS)
    assert "## Throughput" in made
    assert "## Latency" not in made
    assert "{" not in made


def test_the_picture_has_a_bar_for_each_cell() -> None:
    root = ET.fromstring(picture(RESULTS))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[texts.index("kafka, wal2json, TCP") + 1] == "0.50"
    assert texts[texts.index("owner, 1 subscribers") + 1] == "5"
    assert texts[texts.index("rabbitmq, wal2json, TCP") + 1] == "time was up"
