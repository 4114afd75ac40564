"""What deploy/ and docker-compose.yml hold, checked by the tools that are there for it."""

import json
import pathlib
import shutil
import subprocess

import yaml

from tests.unit.test_monitoring_files import ALERTS, TESTS, queries

ROOT = pathlib.Path(__file__).parents[2]


def test_docker_compose_understands_its_file() -> None:
    program = shutil.which("docker-compose")
    assert program is not None, "docker-compose is missing. What to do: make tools"
    done = subprocess.run(
        [program, "-f", str(ROOT / "docker-compose.yml"), "config"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"postgres", "kafka", "rabbitmq", "bridge"}
    (port,) = services["postgres"]["ports"]
    assert "5501:5432" in (port if isinstance(port, str) else f"{port['published']}:{port['target']}")


def test_each_file_that_is_built_is_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def promtool(*arguments: object) -> str:
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing. What to do: make tools"
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=ALERTS.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_alerts_fire_when_they_should() -> None:
    assert "rules found" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_an_alert_that_never_fires_is_noticed(tmp_path: pathlib.Path) -> None:
    for file in (ALERTS, TESTS):
        text = file.read_text(encoding="utf-8").replace("walrus_bridge_progress_age_seconds > 300", "vector(1) > 2")
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    program = shutil.which("promtool") or ""
    done = subprocess.run(
        [program, "test", "rules", str(tmp_path / TESTS.name)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "WalrusBridgeNoProgress" in done.stdout + done.stderr


def test_prometheus_understands_the_dashboards_queries(tmp_path: pathlib.Path) -> None:
    expressions = [each for each in queries() if not each.startswith("label_values(")]
    rules = [
        {"record": f"dashboard:{number}", "expr": each.replace("$__rate_interval", "1m")}
        for number, each in enumerate(expressions)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")

    assert f"{len(expressions)} rules found" in promtool("check", "rules", file)
