"""The dashboard's queries, asked of a real Prometheus that scrapes a real bridge: each panel has something to show."""

import pathlib
from collections.abc import Callable, Iterator

import pytest

from bridge import migrations
from bridge.cluster import free_port, temporary_cluster
from tests.dashboard.panels import legend, panels, query
from tests.dashboard.stage import SAFE, Shop, config, set_up
from tests.servers.bridge import BridgeProcess
from tests.servers.kafka import Kafka
from tests.servers.postgres import SUPABASE, Database
from tests.servers.prometheus import Prometheus
from tests.servers.waiting import wait_until

RATE_INTERVAL = 5
INSTANCE = "bridge-1"


@pytest.fixture
def shop() -> Iterator[Database]:
    """On a server of its own, for its settings."""
    with temporary_cluster(settings=SAFE) as cluster:
        database = Database(cluster, "postgres")
        database.execute(SUPABASE)
        migrations.deploy(database.dsn)
        set_up(database)
        yield database
        database.connection.close()


def test_each_panel_has_something_to_show(
    shop: Database, kafka: Kafka, prefix: str, bridge: Callable[..., BridgeProcess], tmp_path: pathlib.Path
) -> None:
    port = free_port()
    running = bridge(config=config(shop, kafka, prefix, port))
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{port}", INSTANCE)
    try:
        running.wait_until_streaming()
        prometheus.start()
        work = Shop(shop)
        asked = [
            (panel["title"], target, query(target["expr"], RATE_INTERVAL))
            for panel in panels()
            for target in panel.get("targets", ())
        ]

        def empty() -> list[str]:
            work.write(messages=6, readings=3, pages=6, reports=1)
            return [title for title, _, text in asked if not prometheus.now(text)]

        try:
            wait_until(lambda: not empty(), "something in each panel")
        except AssertionError as error:
            raise AssertionError(f"{error}: nothing in {empty()}") from None
        names = {
            (title, legend(target["legendFormat"], sample["metric"]))
            for title, target, text in asked
            for sample in prometheus.now(text)
        }
    finally:
        prometheus.kill()
    assert {name for title, name in names if title == "Events by table"} == {
        "public.message",
        "public.page",
        "public.reading",
    }
    assert ("Dead letters by table", "public.report") in names
    assert ("Memory", INSTANCE) in names
