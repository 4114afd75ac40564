"""A consumer has lost what it had since a moment: the bridge sends it again, also after a Ctrl-C at a terminal."""

import os
import re
import signal
import subprocess

import yaml

from bridge.errors import Exit
from tests.acceptance.replaying import slots
from tests.acceptance.runbooks.conftest import Desk
from tests.acceptance.topics import header
from tests.command import environment, program
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until

ID = "7712196999965110589-1/000000000159F790/000000000159EE10/00000000/public.book/postgres"
BAR = r"\d+ events [━╸╺]+ +\d+% [0-9A-F]+/[0-9A-F]+ [-:\d]+ left"
STOPPED = (
    r"stopped before the end, \d+ events sent\. Go on with: (walrus-bridge replay --from-lsn (\S+) --to-lsn \S+)"
    r" --config (\S+)"
)


def test_replay(desk: Desk, kafka: Kafka) -> None:
    # Given a bridge that keeps a window, and transactions that it has delivered since a moment
    database = desk.database
    database.execute("create table book (id int primary key, title text); create table author (id int primary key)")
    database.execute("alter table book enable row level security; grant select on book to authenticated")
    database.execute("create policy own on book to authenticated using (id = 7 and auth.uid() is not null)")
    database.subscribe("book")
    database.subscribe("author")
    to_kafka = {"create_topics": {"partitions": 1}, "client": {"bootstrap.servers": kafka.servers}}
    settings = desk.settings({"kafka": to_kafka}, source={"replay_window": "1h"})
    running = desk.start(settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    database.execute("insert into book values (0)")
    for number in range(60):
        database.execute("insert into book select generate_series(%s::int, %s)", (number * 10 + 1, number * 10 + 10))
    database.execute("insert into author values (1), (2), (3)")
    database.wait_until_confirmed()
    books, authors = (f"{desk.prefix}public.{table}" for table in ("book", "author"))
    first = kafka.read(books)[1]
    author = kafka.read(authors)[0]
    book = desk.book("replay")
    book.bind(ID, header(first, "id"))
    book.bind("2026-11-25T19:43:14.584534Z", header(first, "commit_timestamp"))
    book.bind(
        "7712196999965110589-1/00000000016208F0/0000000001620710/00000000/public.author/postgres", header(author, "id")
    )

    # When all of it is sent again
    book.run()
    assert (len(kafka.read(books)), len(kafka.read(authors))) == (601 + 600, 3 + 3)

    # And when it is stopped at a terminal
    bar, said = at_a_terminal(desk, settings, "--from-lsn", header(first, "commit_lsn"))
    assert re.search(BAR, bar)
    assert re.fullmatch(BAR, book.text().strip())
    stopped = re.search(STOPPED, said)
    assert stopped, said
    book.bind("0/15EFCC8", stopped[2])
    shown = re.search(STOPPED, book.text())
    assert shown is not None
    assert shown[2] == stopped[2]
    assert len(kafka.read(books)) < 601 + 600 + 600

    # Then the command that it has told sends the rest, and what was said of verifying holds
    rest = stopped[1].split()[1:]
    done = subprocess.run(
        [program(), *rest, "--config", "bridge.yaml"], cwd=desk.folder, env=environment(), check=False
    )
    assert done.returncode == Exit.OK
    again = [header(each, "id") for each in kafka.read(books)]
    assert set(again[601 + 600 :]) == set(again[1:601])
    wait_until(lambda: len(slots(database)) == 2, "the end of the temporary slot")
    book.run()
    rows = subprocess.run(
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", database.dsn], input=book.text(), capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    assert rows[1:] == ["7|"]
    book.finished()
    assert running.stop() == Exit.OK


def at_a_terminal(desk: Desk, settings: dict[str, object], *arguments: str) -> tuple[str, str]:
    """What a slow replay shows there until Ctrl-C, and what it says then; both without the terminal's controls."""
    slow = desk.folder / "slow.yaml"
    slow.write_text(yaml.safe_dump(settings | {"limits": {"events_per_second": 10}}), encoding="utf-8")
    master, slave = os.openpty()
    words = [program(), "replay", *arguments, "--config", str(slow)]
    with subprocess.Popen(
        words, stdin=slave, stderr=slave, env=environment(TERM="xterm", COLUMNS="160"), start_new_session=True
    ) as replay:
        os.close(slave)
        bar, shown = "", b""
        try:
            while chunk := os.read(master, 65536):
                shown += chunk
                if re.search(rb"\d\d events", shown):
                    bar, shown = plain(shown), b""
                    replay.send_signal(signal.SIGINT)
                    break
            while chunk := os.read(master, 65536):
                shown += chunk
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(master)
    assert replay.returncode == Exit.INCOMPLETE, shown
    return bar, plain(shown)


def plain(shown: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")
