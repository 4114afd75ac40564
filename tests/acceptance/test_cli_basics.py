"""What the commands do that need no server: help, versions, the configuration, its mistakes, and which option wins."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bridge import __version__
from bridge.errors import Exit
from tests.command import environment, program

UNREACHABLE = "postgresql://nobody:geheim@127.0.0.1:1/nowhere"


def test_help_and_version_tell_what_there_is(walrus_bridge) -> None:
    help_text = walrus_bridge("--help")

    assert help_text.status == 0
    for command in ("run", "init", "config", "check", "migrate", "slot", "demo"):
        assert f"\n  {command} " in help_text.stdout
    assert walrus_bridge("-h").stdout == help_text.stdout
    assert walrus_bridge("--version").stdout == f"walrus-bridge, version {__version__}\n"


def test_the_original_workers_script_takes_exactly_its_options(walrus_bridge) -> None:
    help_text = walrus_bridge("-h", name="walrus").stdout

    for option in ("--connection", "--slot", "-V, --version", "-h, --help"):
        assert option in help_text
    assert "postgresql://postgres@localhost:5432/postgres" in help_text
    assert walrus_bridge("-V", name="walrus").stdout.endswith(f"{__version__}\n")
    assert walrus_bridge("--config", "x", name="walrus").status == Exit.USAGE


def test_python_m_bridge_is_the_same_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "-V"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"walrus-bridge, version {__version__}\n"


def test_init_prints_or_writes_a_config_that_is_right_and_does_not_overwrite(walrus_bridge, tmp_path: Path) -> None:
    # Given a config that init wrote
    path = tmp_path / "bridge.yaml"
    assert walrus_bridge("init", str(path)).status == 0
    assert path.read_text() == walrus_bridge("init").stdout

    # Then it is right
    assert walrus_bridge("config", "check", "--config", str(path)).status == 0

    # And a second init leaves it alone, but for --force
    path.write_text("mine")
    walrus_bridge("init", str(path)).refused(Exit.CONFIG, "bridge.yaml", "exists already", "--force")
    assert path.read_text() == "mine"
    assert walrus_bridge("init", str(path), "--force").status == 0
    assert path.read_text() == walrus_bridge("init").stdout


def test_config_show_puts_in_variables_and_leaves_out_secrets(walrus_bridge, config_file) -> None:
    path = config_file(
        "source: {connection: 'postgresql://u:${PASSWORD}@db/app'}\n"
        "sink: {kafka: {client: {bootstrap.servers: '${B:-b:1}', sasl.password: '${PASSWORD}'}}}\n"
    )

    shown = walrus_bridge("config", "show", "--config", path, PASSWORD="geheim")

    assert shown.status == 0
    assert "geheim" not in shown.stdout + shown.stderr
    values = yaml.safe_load(shown.stdout)
    assert values["source"]["connection"] == "postgresql://u:********@db/app"
    assert values["sink"]["kafka"]["client"]["bootstrap.servers"] == "b:1"


def test_config_schema_is_json_schema(walrus_bridge) -> None:
    schema = json.loads(walrus_bridge("config", "schema").stdout)

    assert "Source" in schema["$defs"]


@pytest.mark.parametrize(
    "command", [("run",), ("check",), ("migrate", "deploy"), ("slot", "show"), ("config", "check")]
)
def test_every_command_refuses_a_wrong_config_before_anything_else(
    command: tuple[str, ...], walrus_bridge, config_file
) -> None:
    # Given a config with a mistyped key, and a database that nothing must be asked of
    path = config_file(f"source:\n  connection: {UNREACHABLE}\n  plugn: wal2json\nsink: {{stdout: {{}}}}\n")

    done = walrus_bridge(*command, "--config", path)

    done.refused(Exit.CONFIG, f"{path}:3: source.plugn: unknown key; did you mean plugin?")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sink: {stdout: {}}\nlog: {level: 5}", ["bridge.yaml:2: log.level: "]),
        (
            "sink: {stdout: {}}\nsource: {connection: '${DATABASE_URL}'}",
            ["source.connection", "DATABASE_URL is not defined"],
        ),
        ("sink: {stdout: {}, kafka: {}}", ["sink: exactly one of", "found kafka and stdout"]),
        ("sink: {stdout: {}", ["bridge.yaml:1:", "invalid YAML"]),
        (
            "sink: {kafka: {client: {bootstrap.servers: b, acks: 1}}}",
            ["bridge.yaml: sink.kafka.client.acks: ", "What to do"],
        ),
        ("sink: {kafka: {topic: '{prefix}{shema}.{table}'}}", ["sink.kafka.topic: ", "unknown field"]),
    ],
)
def test_run_names_the_mistake_in_the_config(
    text: str, words: list[str], walrus_bridge, config_file: Callable[[str], str]
) -> None:
    walrus_bridge("run", "--config", config_file(text)).refused(Exit.CONFIG, *words)


def test_a_config_that_is_not_there_is_named(walrus_bridge) -> None:
    walrus_bridge("run", "--config", "none.yaml").refused(Exit.CONFIG, "none.yaml: no such file", "walrus-bridge init")


@pytest.mark.parametrize("option", ["--connection=host=x", "--slot=x"])
def test_a_config_and_the_original_options_exclude_one_another(option: str, walrus_bridge, config_file) -> None:
    done = walrus_bridge("run", "--config", config_file("sink: {stdout: {}}"), option)

    assert done.status == Exit.USAGE
    assert "exclude one another" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_come_from_the_environment_and_the_command_line_wins(walrus_bridge, config_file) -> None:
    path = config_file("sink: {stdout: {}}\nsource: {plugn: x}")

    # Given a config from the environment, it is used
    walrus_bridge("slot", "show", WALRUS_BRIDGE_CONFIG=path).refused(Exit.CONFIG, "plugn")

    # When the command line names a database, it wins
    done = walrus_bridge("slot", "show", "--connection", UNREACHABLE, WALRUS_BRIDGE_CONFIG=path)
    done.refused(Exit.SOURCE_UNREACHABLE, "127.0.0.1:1/nowhere")

    # When both come from the environment, there is no telling
    done = walrus_bridge("slot", "show", WALRUS_BRIDGE_CONNECTION=UNREACHABLE, WALRUS_BRIDGE_CONFIG=path)
    assert done.status == Exit.USAGE


def test_wrong_options_of_the_original_kind_name_the_option(walrus_bridge) -> None:
    walrus_bridge("--connection", "no dsn", name="walrus").refused(Exit.CONFIG, "--connection: ")
    walrus_bridge("run", "--slot", "Not-A-Slot").refused(Exit.CONFIG, "--slot: ")


def test_an_unknown_command_or_option_is_a_usage_error(walrus_bridge) -> None:
    assert walrus_bridge("rnu").status == Exit.USAGE
    assert walrus_bridge("run", "--conection", "x").status == Exit.USAGE


def test_what_destroys_asks_first_and_does_nothing_without_an_answer(walrus_bridge) -> None:
    for command in (("slot", "drop"), ("migrate", "revert")):
        done = walrus_bridge(*command, "--connection", UNREACHABLE)

        assert done.status == 130
        assert "[y/N]" in done.stderr
        assert walrus_bridge(*command, "--connection", UNREACHABLE, stdin="n\n").status == 130


def test_migrate_deploy_prints_plain_sql_without_a_database(walrus_bridge) -> None:
    printed = walrus_bridge("migrate", "deploy", "--print")

    assert printed.status == 0
    assert printed.stdout.startswith("begin;")
    assert "realtime.subscription" in printed.stdout


def test_output_into_a_closed_pipe_ends_quietly(walrus_bridge, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [program(), "config", "schema"], stdout=closed, stderr=subprocess.PIPE, env=environment(), check=False
        )

    assert b"Traceback" not in done.stderr
    assert done.returncode == 141
