"""What deploy/ and docker-compose.yml hold, checked by the tools that are there for it."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bridge.errors import Exit
from bridge.sending import DRAIN_SECONDS
from tests import command
from tests.unit.test_monitoring_files import ALERTS, TESTS, queries

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "walrus-bridge.service"
KUBERNETES = DEPLOY / "kubernetes"
SECRETS = {
    "SOURCE_CONNECTION": "postgresql://walrus_source:secret@db/app",
    "JUDGE_CONNECTION": "postgresql://walrus_judge:secret@db/app",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
}
EXPOSURE = 15
"""Of the unit, in tenths of systemd's own measure, from 0 (best) to 100."""


def tool(name: str, *arguments: str | pathlib.Path) -> str:
    """What a tool prints; it must find nothing wrong."""
    program = shutil.which(name) or shutil.which(name, path=pathlib.Path(sys.executable).parent)
    assert program is not None, f"{name} is missing. What to do: make tools"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_a_configuration_that_is_right_with_the_secrets_it_shows(
    walrus_bridge: Any, config_file: Any
) -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    config, secrets = re.findall(r"^```\w+\n# (?:bridge.yaml|secrets.env)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = dict(line.split("=", 1) for line in secrets.splitlines())
    assert set(shown) == set(SECRETS)

    done = walrus_bridge("config", "check", "--config", config_file(config), **shown)

    assert done.status == Exit.OK, done.stderr


# -- Docker ------------------------------------------------------------------------------------------------------------


def test_docker_compose_understands_its_file() -> None:
    services = yaml.safe_load(tool("docker-compose", "-f", ROOT / "docker-compose.yml", "config"))["services"]

    assert set(services) == {"postgres", "kafka", "rabbitmq", "bridge"}
    (port,) = services["postgres"]["ports"]
    assert "5501:5432" in (port if isinstance(port, str) else f"{port['published']}:{port['target']}")
    assert services["bridge"]["read_only"]
    assert int(services["bridge"]["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS


def test_each_file_that_is_built_is_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["Dockerfile", "postgres.Dockerfile"])
def test_the_dockerfiles_are_sound(name: str) -> None:
    tool("hadolint", "--no-color", DEPLOY / name)


def test_the_image_runs_as_a_number_that_is_not_roots() -> None:
    users = re.findall(r"^USER (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    pod = deployment()["spec"]["template"]["spec"]

    assert users == [f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"]
    assert users != ["0:0"]


def test_the_image_gets_each_locked_version_of_what_it_needs(tmp_path: pathlib.Path) -> None:
    # Given the line of the Dockerfile that makes constraints of the lock
    script = re.search(r"^RUN (sed .*?) > /constraints.txt", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert script is not None

    done = subprocess.run(["sh", "-c", script[1]], cwd=ROOT, capture_output=True, text=True, check=True)

    # Then it names those of the package's own dependencies, in the form that pip takes
    constraints = dict(line.split("==") for line in done.stdout.splitlines())
    for package in ("click", "confluent-kafka", "msgspec", "pika", "psycopg", "psycopg-binary", "pyyaml", "structlog"):
        assert re.fullmatch(r"[0-9.]+", constraints[package])


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def built() -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send."""
    return list(yaml.safe_load_all(tool("kubectl", "kustomize", KUBERNETES)))


def deployment() -> dict[str, Any]:
    (found,) = (each for each in built() if each["kind"] == "Deployment")
    return found


@pytest.mark.parametrize("version", ["1.27.0", "1.32.0", "1.37.0"])
def test_kubernetes_knows_every_field(version: str) -> None:
    resources = built()
    assert {each["kind"] for each in resources} == {"ConfigMap", "Deployment", "PodDisruptionBudget"}
    for each in resources:
        kubernetes_validate.validate(each, version, strict=True)


def test_kubernetes_would_refuse_a_field_that_it_does_not_know() -> None:
    wrong = deployment()
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.32.0", strict=True)


def test_the_pod_is_one_without_rights_that_gets_the_time_it_needs() -> None:
    found = deployment()["spec"]
    pod = found["template"]["spec"]
    (container,) = pod["containers"]

    assert (found["replicas"], found["strategy"]) == (1, {"type": "Recreate"})
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_configuration_of_the_pod_is_right(walrus_bridge: Any, config_file: Any, tmp_path: pathlib.Path) -> None:
    (found,) = (each for each in built() if each["kind"] == "ConfigMap")
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = config_file(found["data"]["bridge.yaml"])

    done = walrus_bridge("config", "check", "--config", config, **SECRETS)
    assert done.status == Exit.OK, done.stderr

    # It is where the arguments say, it listens where the probes ask, and needs those secrets and no others
    assert pod["volumes"][0] == {"name": "config", "configMap": {"name": found["metadata"]["name"]}}
    path = container["args"][container["args"].index("--config") + 1]
    assert path == f"{container['volumeMounts'][0]['mountPath']}/bridge.yaml"
    settings = yaml.safe_load(found["data"]["bridge.yaml"])
    assert settings["http"]["listen"] == f"0.0.0.0:{container['ports'][0]['containerPort']}"
    for secret in SECRETS:
        rest = {name: value for name, value in SECRETS.items() if name != secret}
        walrus_bridge("config", "check", "--config", config, **rest).refused(Exit.CONFIG, secret)


def test_the_options_of_the_pod_and_the_unit_exist(walrus_bridge: Any) -> None:
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    line = re.search(r"^ExecStart=\S+/walrus-bridge (.*)$", UNIT.read_text(), re.MULTILINE)
    assert line is not None
    for arguments in (container["args"], line[1].split()):
        walrus_bridge(*arguments[:-1], "missing.yaml").refused(Exit.CONFIG, "missing.yaml")


# -- systemd -----------------------------------------------------------------------------------------------------------


def complaints(text: str, folder: pathlib.Path) -> str:
    """What systemd has to say of the unit; it looks for the program too, so that is one that is there."""
    unit = folder / UNIT.name
    unit.write_text(text.replace("/opt/walrus-bridge/bin/walrus-bridge", command.program()))
    line = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    return "".join(line for line in done.stderr.splitlines(keepends=True) if UNIT.name in line)


def test_systemd_understands_every_line_of_the_unit(tmp_path: pathlib.Path) -> None:
    assert complaints(UNIT.read_text(), tmp_path) == ""
    assert "WatchdogSecs" in complaints(UNIT.read_text().replace("WatchdogSec=", "WatchdogSecs="), tmp_path)


def test_the_unit_is_as_closed_as_it_was() -> None:
    tool("systemd-analyze", "security", "--no-pager", "--offline=yes", f"--threshold={EXPOSURE}", UNIT)


def test_the_unit_gives_it_the_time_it_needs() -> None:
    text = UNIT.read_text()
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) > DRAIN_SECONDS
    statuses = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)[0].split()
    assert {int(status) for status in statuses} == {Exit.USAGE, Exit.CONFIG, Exit.POISON, Exit.GAP}


# -- Prometheus and Grafana ---------------------------------------------------------------------------------------------


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
