"""What deploy/ and docker-compose.yml hold, checked by the tools that are there for it."""

import pathlib
import shutil
import subprocess

import yaml

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
