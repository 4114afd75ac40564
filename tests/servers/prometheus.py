"""Prometheus, which scrapes one bridge each second."""

import json
import pathlib
import shutil
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import yaml

from bridge.cluster import free_port
from tests.servers.process import Server
from tests.servers.waiting import wait_until

SCRAPED_EACH = 1
"""Seconds."""


class Prometheus(Server):
    def __init__(self, home: pathlib.Path, target: str, instance: str) -> None:
        """`target`: host:port of the bridge; `instance`: its name there."""
        super().__init__(home, "prometheus")
        program = shutil.which("prometheus")
        if program is None:
            raise RuntimeError("Prometheus is not installed for the tests. What to do: make tools")
        self._program = program
        self.port = free_port()
        scrape = {
            "job_name": "walrus-bridge",
            "static_configs": [{"targets": [target], "labels": {"instance": instance}}],
        }
        settings = {"global": {"scrape_interval": f"{SCRAPED_EACH}s"}, "scrape_configs": [scrape]}
        (home / "prometheus.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def start(self) -> None:
        home, address = self.home, f"127.0.0.1:{self.port}"
        files = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
        self._launch([self._program, *files, f"--web.listen-address={address}", "--log.level=warn"], {})
        wait_until(self._answers, "Prometheus' start")

    def now(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query: `metric`, and `value` as (time, text)."""
        return self._ask("query", query=query)

    def between(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query: `metric`, and `values`."""
        return self._ask("query_range", query=query, start=start, end=end, step=step)

    def _ask(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        address = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from None

    def _answers(self) -> bool:
        if self.has_ended:
            raise AssertionError(f"Prometheus has ended: {self.log[-3000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2):
                return True
        except OSError:
            return False
