"""The picture of the dashboard: numbers with their units, and every kind of panel in its place."""

from xml.etree import ElementTree as ET

import pytest

from tests.dashboard.draw import Drawn, Place, Series, svg, told
from tests.dashboard.panels import legend, query

NUMBERS = [
    (0, "s", "0 s"),
    (0.0123, "s", "12.3 ms"),
    (90, "s", "90 s"),
    (600, "s", "10 min"),
    (0, "bytes", "0 B"),
    (1536, "bytes", "1.5 KiB"),
    (3 * 1024**3, "Bps", "3 GiB/s"),
    (0.25, "percentunit", "25 %"),
    (12345, "none", "12,345"),
    (7, "eps", "7 events/s"),
]


@pytest.mark.parametrize(("value", "unit", "text"), NUMBERS)
def test_a_number_has_its_unit(value: float, unit: str, text: str) -> None:
    assert told(value, unit) == text


def test_each_kind_of_panel_is_drawn() -> None:
    line = Series("a & b", [(0, 0), (60, 5), (120, 10)], "none")
    panels = [
        Drawn("stat", "Lag", Place(0, 0, 4, 4), told="3 s", colour="green"),
        Drawn("row", "Delivery", Place(0, 4, 24, 1)),
        Drawn("timeseries", "Lines", Place(0, 5, 12, 8), series=[line]),
        Drawn("timeseries", "Nothing", Place(12, 5, 12, 8)),
        Drawn("table", "Ways", Place(0, 13, 24, 8), columns=["table", "way"], rows=[["book", "join"]]),
    ]
    drawing = ET.fromstring(svg(panels, "a note"))
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a note", "3 s", "▾ Delivery", "a & b", "no data", "book", "join", "0:00", "2:00", "10"} <= set(words)
    paths = [element.get("d") or "" for element in drawing.iter("{http://www.w3.org/2000/svg}path")]
    # From the lower left corner to the upper right one, by the middle.
    assert "M78 168.0L330 100.0L582 32.0" in paths


def test_a_query_and_a_legend_have_their_variables_put_in() -> None:
    asked = 'rate(events{job=~"$job", instance=~"$instance"}[$__rate_interval])'
    assert query(asked, 5) == 'rate(events{job=~".*", instance=~".*"}[5s])'
    assert legend("{{schema}}.{{table}} now", {"schema": "public", "table": "book"}) == "public.book now"
