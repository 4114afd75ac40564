"""What `walrus-bridge schema asyncapi` prints is AsyncAPI, by AsyncAPI's own parser."""

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests import command

VALIDATOR = pathlib.Path(__file__).parents[2] / ".cache" / "asyncapi" / "validate.js"
SINKS: dict[str, dict[str, Any]] = {
    "kafka": {
        "kafka": {
            "prefix": "shop.",
            "topics": {"public.book": "books", 'odd."t': "odd"},
            "client": {"bootstrap.servers": "a:9092, SASL_SSL://b:9093"},
        }
    },
    "rabbitmq": {
        "rabbitmq": {"url": "amqps://me:secret@mq.example/shop%2Fone", "prefix": "p.", "route_by": "subscription"}
    },
    "stdout": {"stdout": {}},
}


def faults(document: str) -> list[str]:
    """What AsyncAPI's parser finds wrong."""
    done = subprocess.run(
        ["node", str(VALIDATOR)], input=document, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture
def document(walrus_bridge: Callable[..., command.Done], config_file: Callable[[str], str]) -> Callable[..., str]:
    def made(sink: dict[str, Any], **sections: Any) -> str:
        file = config_file(yaml.safe_dump({"source": {"connection": "postgresql://a/b"}, "sink": sink, **sections}))
        done = walrus_bridge("schema", "asyncapi", "--config", file)
        assert done.status == 0, done.stderr
        return done.stdout

    return made


@pytest.mark.parametrize("sink", SINKS)
def test_the_document_is_asyncapi(document: Callable[..., str], sink: str) -> None:
    assert faults(document(SINKS[sink])) == []


def test_it_is_with_exactly_once(document: Callable[..., str]) -> None:
    assert faults(document(SINKS["kafka"], delivery="exactly_once")) == []


@pytest.mark.parametrize("fault", ["channels/events/kafkaTopic", "operations/send-events/action", "info/version"])
def test_a_document_that_is_not_is_found(document: Callable[..., str], fault: str) -> None:
    made = json.loads(document(SINKS["kafka"]))
    *path, last = fault.split("/")
    place = made
    for step in path:
        place = place[step]
    place[last] = 7

    assert any(line.startswith("/".join(path)) for line in faults(json.dumps(made)))
