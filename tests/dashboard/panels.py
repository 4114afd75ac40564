"""The dashboard's panels and their queries, as Grafana would ask them."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

DASHBOARD = pathlib.Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"


def panels() -> list[dict[str, Any]]:
    """Rows included."""
    return list(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"])


def query(expression: str, rate_interval: int) -> str:
    """With its variables put in: all jobs and instances; `rate_interval` in seconds."""
    for name, value in {"job": ".*", "instance": ".*", "__rate_interval": f"{rate_interval}s"}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def legend(pattern: str, labels: Mapping[str, str]) -> str:
    """A series' name: `{{label}}` is the label's value."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)
