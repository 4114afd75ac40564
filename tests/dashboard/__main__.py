"""`make dashboard`: docs/dashboard.svg, from what the dashboard's queries give of a bridge at work for two minutes."""

import math
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

from bridge import migrations
from bridge.cluster import free_port, temporary_cluster
from tests.dashboard.draw import Drawn, Place, Series, svg, told
from tests.dashboard.panels import legend, panels, query
from tests.dashboard.stage import SAFE, Shop, config, set_up
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.prometheus import Prometheus

OUT = pathlib.Path(__file__).parents[2] / "docs" / "dashboard.svg"
SECONDS, STEP, RATE_INTERVAL = 120, 2, 10
NOTE = (
    f"Drawn from the dashboard's own queries ({SECONDS // 60} minutes of a real bridge with Kafka, scraped each second; the broker is frozen"
    " for 8 s): not a screenshot of Grafana."
)


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="walrus-bridge-dashboard-") as name,
        temporary_cluster(settings=SAFE) as own,
    ):
        folder, port = pathlib.Path(name), free_port()
        kafka = Kafka(_home(folder, "kafka"))
        prometheus = Prometheus(_home(folder, "prometheus"), f"127.0.0.1:{port}", "bridge-1")
        database = Database(own, "postgres")
        database.slot = "realtime"
        database.execute(SUPABASE)
        migrations.deploy(database.dsn)
        set_up(database)
        running = None
        try:
            kafka.start()
            prometheus.start()
            limits = {"events_per_second": 700}
            running = BridgeProcess(folder, config=config(database, kafka, "realtime.", port, limits=limits))
            running.wait_until_streaming()
            begin = time.time()
            _work(Shop(database), kafka, begin)
            end = time.time()
            drawn = [_drawn(panel, prometheus, begin, end) for panel in panels()]
        finally:
            if running is not None:
                running.kill()
            prometheus.kill()
            kafka.kill()
            database.connection.close()
    OUT.write_text(svg(drawn, NOTE), encoding="utf-8")
    sys.stdout.write(f"{OUT}: {OUT.stat().st_size // 1024} KiB\n")


def _work(shop: Shop, kafka: Kafka, begin: float) -> None:
    """Waves of changes, a burst that is more than the limit allows, a frozen broker, and now and then a dead letter."""
    frozen = False
    while (now := time.time() - begin) < SECONDS:
        wave = 1 + math.sin(now / 9)
        shop.write(messages=int(12 * wave), readings=int(8 + 4 * wave), pages=int(4 * wave))
        if 40 <= now < 44:
            shop.write(readings=300)
        if int(now / 0.2) % 140 == 70:
            shop.write(reports=1)
        if frozen != (70 <= now < 78):
            frozen = not frozen
            (kafka.pause if frozen else kafka.resume)()
        time.sleep(0.2)


def _drawn(panel: dict[str, Any], prometheus: Prometheus, begin: float, end: float) -> Drawn:
    place = Place(**panel["gridPos"])
    kind, title = panel["type"], panel["title"]
    field = panel.get("fieldConfig", {}).get("defaults", {})
    texts = [query(target["expr"], RATE_INTERVAL) for target in panel.get("targets", ())]
    if kind == "row":
        return Drawn(kind, title, place)
    if kind == "stat":
        value = float(prometheus.now(texts[0])[0]["value"][1])
        steps = [step for step in field["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
        mapped = {
            key: each["text"] for mapping in field.get("mappings", ()) for key, each in mapping["options"].items()
        }
        return Drawn(
            kind, title, place, told=mapped.get(f"{value:g}", told(value, field["unit"])), colour=steps[-1]["color"]
        )
    if kind == "table":
        options = panel["transformations"][0]["options"]
        columns = sorted(options["indexByName"], key=options["indexByName"].get)
        rows = [[sample["metric"].get(column, "") for column in columns] for sample in prometheus.now(texts[0])]
        return Drawn(kind, title, place, columns=columns, rows=sorted(rows))
    series = []
    for target, text in zip(panel["targets"], texts, strict=True):
        for found in prometheus.between(text, begin, end, STEP):
            name = legend(target["legendFormat"], found["metric"])
            points = [(at - begin, float(value)) for at, value in found["values"] if math.isfinite(float(value))]
            changed = {
                each["id"]: each["value"]
                for override in panel["fieldConfig"]["overrides"]
                if re.search(override["matcher"]["options"], name)
                for each in override["properties"]
            }
            right = changed.get("custom.axisPlacement") == "right"
            series.append(Series(name, points, changed.get("unit", field["unit"]), right))
    return Drawn(kind, title, place, series=series)


def _home(folder: pathlib.Path, name: str) -> pathlib.Path:
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    main()
