"""Somebody runs a bridge by hand, so that the service finds the slot taken, and fails again and again."""

from collections.abc import Callable
from typing import Any

from tests.acceptance.runbooks.book import script
from tests.acceptance.runbooks.conftest import Desk
from tests.servers.systemd import Systemd
from tests.servers.waiting import wait_until


def test_bridge_down(desk: Desk, systemd: Callable[..., Systemd], bridge: Callable[..., Any]) -> None:
    database = desk.database
    database.execute("create table book (id int primary key, title text)")
    database.subscribe("book")
    settings: dict[str, Any] = {
        "source": {"connection": database.dsn, "slot": database.slot},
        "sink": {"stdout": {}},
        "http": {"listen": None},
    }
    by_hand = bridge(config=settings)
    by_hand.wait_until_streaming()
    service = systemd(settings | {"http": {"listen": f"127.0.0.1:{desk.port}"}}, "RestartSec=1min\n")
    service.ask("start", "--no-block", service.name)
    wait_until(lambda: service.show("SubState") == "auto-restart", "it has failed", 60)
    command = service.systemctl()
    assert command is not None
    script(desk.tools, "systemctl", *command)
    book = desk.book("bridge-down")
    book.bind("269", service.show("ExecMainPID"))
    ((walsender,),) = database.execute("select active_pid::text from pg_replication_slots where slot_name = 'realtime'")
    book.bind("10311", walsender)

    book.run()
    book.found_in(service.text("stderr"))
    book.run(until="systemctl restart")
    assert by_hand.stop() == 0
    database.execute("insert into book values (1, 'Foo')")
    book.run(until="walrus-bridge status")
    wait_until(lambda: '"title":"Foo"' in service.text("stdout"), "what was committed meanwhile")
    database.wait_until_confirmed()
    book.run()
    book.finished()
