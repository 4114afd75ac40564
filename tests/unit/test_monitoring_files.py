"""Alerts and dashboard name what /metrics has, and the docs name the alerts."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge.metrics import exposition
from tests.unit.test_metrics import OPERATIONS, full

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
TESTS = DEPLOY / "prometheus" / "alerts.test.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
PICTURE = Path(__file__).parents[2] / "docs" / "dashboard.svg"
TARGET = {"job", "instance"}
"""The labels that Prometheus adds."""


def exposed() -> dict[str, set[str]]:
    """By metric, its labels; of all samples, a histogram's included."""
    families = text_string_to_metric_families(exposition(full()).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"])


def queries() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in panels():
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (each["query"]["query"] for each in dashboard["templating"]["list"] if isinstance(each["query"], dict))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def alert_tests() -> list[dict[str, Any]]:
    return list(yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"])


EXPRESSIONS = {
    "alerts": [rule["expr"] for rule in rules()],
    "alerts' tests": [series["series"] for test in alert_tests() for series in test["input_series"]],
    "dashboard": list(queries()),
}


@pytest.mark.parametrize("of", EXPRESSIONS)
def test_they_name_metrics_and_labels_that_there_are(of: str) -> None:
    known, named = exposed(), set()
    for expression in EXPRESSIONS[of]:
        for name, matchers in re.findall(r"\b((?:walrus_bridge|process)_\w+)(\{[^}]*\})?", expression):
            assert name in known, expression
            labels = set(re.findall(r"(\w+)\s*=~?\s*\"", re.sub(r'"[^"]*"', '""', matchers)))
            assert labels <= known[name] | TARGET, expression
            named.add(name)
    assert len(named) > 5


def test_the_alerts_tests_give_a_series_all_its_labels() -> None:
    known = exposed()
    for series in EXPRESSIONS["alerts' tests"]:
        name, matchers = re.match(r"(\w+)\{(.*)\}", series).groups()  # type: ignore[union-attr]
        if name != "up":
            labels = set(re.findall(r'(\w+)="', matchers))
            assert labels == known[name] | TARGET, series


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    names = {rule["alert"] for rule in rules()}
    asked = [each for test in alert_tests() for each in test.get("alert_rule_test", ())]
    assert {each["alertname"] for each in asked if each["exp_alerts"]} == names
    assert {each["alertname"] for each in asked if not each["exp_alerts"]} == names


def test_the_docs_have_each_alert_and_no_other() -> None:
    written = re.findall(r"^\| `(WalrusBridge\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE)
    assert sorted(written) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in rules())
    assert not set(re.findall(r"WalrusBridge\w+", OPERATIONS)) - {name for name, _ in written}


def test_each_alert_leads_to_a_runbook_that_knows_it() -> None:
    rows = dict(re.findall(r"^\| `(WalrusBridge\w+)` \|.*\]\((runbooks/[\w-]+\.md)\) \|$", OPERATIONS, re.MULTILINE))
    assert rows.keys() == {rule["alert"] for rule in rules()}
    for rule in rules():
        runbook = rule["annotations"]["runbook"]
        assert runbook == f"docs/{rows[rule['alert']]}"
        assert f"`{rule['alert']}`" in (DEPLOY.parent / runbook).read_text()


def test_every_runbook_is_in_the_list() -> None:
    linked = set(re.findall(r"\]\((runbooks/[\w-]+\.md)\)", OPERATIONS))
    assert linked == {f"runbooks/{path.name}" for path in (DEPLOY.parent / "docs" / "runbooks").glob("*.md")}


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"\bwalrus_bridge_\w+", " ".join(queries())))
    assert exposed().keys() - shown <= {name for name in exposed() if name.startswith("process_")}


def test_the_docs_have_each_panel_and_no_other() -> None:
    row, shown = "At the top", []
    for panel in panels():
        if panel["type"] == "row":
            row = panel["title"]
        else:
            shown.append((row, panel["title"]))
    section = OPERATIONS.partition("\n## Dashboard\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w[^|]*) \| (\w[^|]*) \| \w", section, re.MULTILINE) == [("row", "panel"), *shown]


def test_the_dashboards_picture_has_each_panel() -> None:
    drawn = re.findall(r'font-weight="bold">(?:▾ )?([^<]+)</text>', PICTURE.read_text(encoding="utf-8"))
    assert {panel["title"] for panel in panels()} <= set(drawn), "make dashboard draws it anew"


def test_the_dashboards_panels_have_places_of_their_own() -> None:
    places = [panel["gridPos"] for panel in panels()]
    assert all(each["x"] + each["w"] <= 24 for each in places)
    assert len({panel["id"] for panel in panels()}) == len(places)
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
