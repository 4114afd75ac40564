"""The wheel and the sdist, and the wheel installed into an empty environment."""

import os
import pathlib
import site
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def call(*command: object, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(each) for each in command],
        cwd="/",
        env=environment | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def test_both_hold_what_they_need(built: pathlib.Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {
        "bridge/pipeline.py",
        "bridge/sqitch/sqitch.plan",
        "bridge/bridge.example.yaml",
        "bridge/page.html",
    } <= in_wheel
    assert "bridge/deploy/roles.sql" in in_wheel
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    assert {
        "bridge/pipeline.py",
        "sqitch/sqitch.plan",
        "tests/conftest.py",
        "LICENSE",
        "Makefile",
        ".ci/run",
    } <= in_sdist


def test_the_wheel_works_in_an_empty_environment(built: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    # What it depends on is lent by this environment, so that no network is needed.
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    program = tmp_path / "venv" / "bin" / "walrus-bridge"

    assert call(program, "--version").startswith("walrus-bridge, version ")
    assert "realtime.subscription (" in call(program, "migrate", "deploy", "--print")
    where = call(python, "-c", "import bridge; print(bridge.__file__)").strip()
    assert pathlib.Path(where).is_relative_to(tmp_path)
    assert '"title": "Foo"' in call(program, "demo")
