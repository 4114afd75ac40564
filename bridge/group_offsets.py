"""`walrus-bridge offsets`: where a consumer group would go to see the events from an LSN on, and setting it there."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bridge.config import Kafka as KafkaConfig
from bridge.kafka_groups import Group
from bridge.kafka_reading import Reader, topics_of
from bridge.lsn import format_lsn
from bridge.offsets import Found, find, target


class Place(msgspec.Struct, frozen=True):
    """A partition, and the group in it."""

    topic: str
    partition: int
    found: Found
    committed: int | None
    """Where the group is; None: it has no offset here yet."""
    target: int
    """Where it is set."""
    end: int

    @property
    def lag(self) -> int:
        """How much the group has to read then, in offsets: some may hold no message."""
        return self.end - self.target

    def as_json(self) -> dict[str, Any]:
        lsn = self.found.commit_lsn
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.found.offset,
            "commit_lsn": None if lsn is None else format_lsn(lsn),
            "is_oldest": self.found.is_oldest,
            "committed": self.committed,
            "target": self.target,
            "end": self.end,
            "lag": self.lag,
        }


def plan(
    config: KafkaConfig,
    group: str,
    lsn: int,
    topics: Sequence[str],
    system: str | None,
    *,
    scan: bool,
    forward: bool,
    apply: bool,
) -> list[Place]:
    """Find the places, and with `apply` set the group there. Raises BridgeErrors."""
    with Reader(config) as reader, Group(reader, group) as members:
        # What is in the way is told now, rather than after a long search.
        if apply:
            members.check_empty()
        else:
            members.members()
        partitions = reader.partitions(topics or topics_of(config, reader))
        found = find(partitions, lsn, system, scan=scan)
        committed = members.committed((each.topic, each.number) for each in partitions)
        places = []
        for partition, at in zip(partitions, found, strict=True):
            now = committed.get((partition.topic, partition.number))
            goal = target(at.offset, now, forward=forward)
            places.append(Place(partition.topic, partition.number, at, now, goal, partition.end))
        if apply:
            members.set({(each.topic, each.partition): each.target for each in places})
        return places


_HEADINGS = ("topic", "partition", "offset", "commit_lsn", "committed", "set to", "end", "lag")


def table(places: Sequence[Place]) -> Iterator[str]:
    """A line for each partition, under headings."""
    rows = [_HEADINGS, *(_row(each) for each in places)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells)


def _row(place: Place) -> tuple[str, ...]:
    lsn = place.found.commit_lsn
    return (
        place.topic,
        str(place.partition),
        str(place.found.offset),
        "-" if lsn is None else format_lsn(lsn),
        "-" if place.committed is None else str(place.committed),
        str(place.target),
        str(place.end),
        str(place.lag),
    )


def notes(places: Sequence[Place]) -> Iterator[str]:
    """What the figures do not tell by themselves."""
    if behind := _named(each for each in places if each.target < each.found.offset):
        yield f"stays where it is, as it has not read that far yet (--forward skips events): {behind}"
    if oldest := _named(each for each in places if each.found.is_oldest):
        yield f"the oldest that is left; events from that LSN on may have been deleted before it: {oldest}"
    if ends := _named(each for each in places if each.found.commit_lsn is None):
        yield f"no event at or after that LSN yet, so the end: {ends}"


def _named(places: Iterator[Place]) -> str:
    return ", ".join(f"{each.topic} {each.partition}" for each in places)
