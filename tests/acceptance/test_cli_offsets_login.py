"""`offsets` and `tail` at a broker that asks who it is, and what it may do."""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from bridge.errors import Exit
from tests.acceptance.topics import committed, config, make, write
from tests.command import Done
from tests.integration.test_sink_kafka_login import AskingKafka
from tests.servers.process import running

Command = Callable[..., Done]
ConfigFile = Callable[[str], str]


@pytest.fixture(scope="module")
def asking() -> Iterator[AskingKafka]:
    with running(AskingKafka) as server:
        yield server


def login(server: AskingKafka, prefix: str, password: str = "right") -> str:
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "bridge",
        "sasl.password": password,
    }
    return config(server, prefix, **settings).replace(server.servers, server.asking)


def allow_group(server: AskingKafka, group: str, *operations: AclOperation) -> None:
    of_group = (ResourceType.GROUP, group, ResourcePatternType.LITERAL, "User:bridge", "*")
    admin = server.admin
    for made in admin.create_acls(
        [AclBinding(*of_group, each, AclPermissionType.ALLOW) for each in operations]
    ).values():
        made.result()


def test_the_rights_that_a_login_needs_are_named_one_after_the_other(
    asking: AskingKafka, prefix: str, config_file: ConfigFile, walrus_bridge: Command
) -> None:
    topic, group = make(asking, f"{prefix}public.book"), f"{prefix}group"
    write(asking, topic, ["0/10", "0/20"])
    path = config_file(login(asking, prefix))

    def offsets(*arguments: str) -> Done:
        return walrus_bridge("offsets", "--config", path, "--group", group, "--lsn", "0/20", *arguments)

    assert walrus_bridge("tail", "--config", path).status == Exit.SINK_REFUSED
    offsets().refused(Exit.SINK_REFUSED, "Read and Describe on the group")
    allow_group(asking, group, AclOperation.DESCRIBE)
    offsets().refused(Exit.SINK_REFUSED, "may see none")
    offsets("--topic", topic).refused(Exit.SINK_REFUSED, topic, "grant the login Describe")
    asking.allow(prefix, AclOperation.DESCRIBE)
    offsets().refused(Exit.SINK_REFUSED, "Read and Describe on the topics")
    asking.allow(prefix, AclOperation.READ)
    assert walrus_bridge("tail", "--config", path, "--no-follow").status == Exit.OK  # which uses no group
    assert offsets().status == Exit.OK
    offsets("--apply").refused(Exit.SINK_REFUSED, "Read and Describe on the group")
    allow_group(asking, group, AclOperation.READ)
    assert offsets("--apply").status == Exit.OK
    assert committed(asking, group, topic) == [1]


@pytest.mark.parametrize("command", [("offsets", "--group", "g", "--lsn", "0/20"), ("tail",)])
def test_a_wrong_password_is_refused(
    asking: AskingKafka, prefix: str, config_file: ConfigFile, walrus_bridge: Command, command: tuple[str, ...]
) -> None:
    path = config_file(login(asking, prefix, "hush-hush"))
    done = walrus_bridge(*command, "--config", path)
    done.refused(Exit.SINK_REFUSED, "refuses the connection", "sasl")
    assert "hush" not in done.stderr
