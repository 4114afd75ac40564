"""The stages from a batch of messages to events, wired as bridge/session.py does, without a stream or a sink."""

import contextlib
from collections.abc import Iterator, Sequence

from psycopg import conninfo

from bridge.audience import Audiences
from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.catalog import Catalog
from bridge.change import Message
from bridge.event import Event
from bridge.filtering import Filtering
from bridge.filters import Comparer
from bridge.joined import JoinedJudge
from bridge.judging import Judging
from bridge.lsn import Identity
from bridge.policy_facts import PolicyFacts
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.rls import Judge
from bridge.securing import Securing
from bridge.sql import connect
from bridge.subscriptions import Subscriptions
from bridge.tally import Tally
from bridge.valuemaker import ValueMaker
from bridge.writer import EventWriter
from tests.servers.postgres import Database
from tests.streams import Streams


class Stages:
    def __init__(self, judging: Judging, subscriptions: Subscriptions, tally: Tally) -> None:
        self._judging = judging
        self.tally = tally
        self.subscriptions = subscriptions

    def events(self, messages: Sequence[Message]) -> list[Event]:
        events = [output for output in self._judging.process(messages) if isinstance(output, Event)]
        self._judging.rest()
        return events


@contextlib.contextmanager
def stages(
    database: Database,
    plugin: str,
    *,
    leave: bool = False,
    loaded: bool = True,
    join_from: int | None = 1,
    few: int = 64,
    login: str | None = None,
) -> Iterator[Stages]:
    """With the subscriptions that there are now, or none. Row security as a join from so many claims on (None: never), and
    with all claims of a role where those of a row are more than `few`. `login` judges; None: a superuser."""
    codec = Streams.CODECS[plugin]
    judging_dsn = database.dsn if login is None else conninfo.make_conninfo(database.dsn, user=login)
    with connect(database.dsn, CATALOG_SETTINGS) as source, connect(judging_dsn, JUDGING_SETTINGS) as judge:
        catalog = Catalog(source)
        joined, tally = None, Tally()
        if join_from is not None:
            joined = JoinedJudge(judge, catalog, PolicyFacts(catalog), tally, join_from=join_from, few=few)
        audiences = Audiences(
            catalog,
            Filtering(Comparer(source), codec),
            Securing(
                Judge(judge, catalog, tally),
                joined,
                codec,
                current=False,
                lossy=plugin == "wal2json",
            ),
        )
        subscriptions = Subscriptions()
        if loaded:
            subscriptions.load(source)
        judging = Judging(
            (source, judge),
            catalog,
            audiences,
            ValueMaker(source, codec, 1 << 20),
            subscriptions,
            codec,
            EventWriter(Identity("7000", 1)),
            tally,
            stop_on_failure=False,
            leave=leave,
            wait=lambda _: None,
        )
        yield Stages(judging, subscriptions, tally)
