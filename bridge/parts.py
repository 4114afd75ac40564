"""What takes the place of an event that the sink refuses: parts of it, each for its share of the audience; a smaller one;
or its dead letter. Pure.

Parts come first: who gets one has the whole record. The same event, audience and limit always give the same parts.
"""

from collections.abc import Iterator

import msgspec

from bridge.errors import PoisonError, SinkRefused
from bridge.event import Event, rejected_letter, short_hash, shrunk, smaller_letters

PART_BYTES = 128
"""More than a part's longer id and its own header add to a message."""

_LARGE_AUDIENCE = 4
"""Where the limit is not known: an audience of at least one such part of the rest may be what makes the event too large."""


class _Value(msgspec.Struct):
    """An event's value, of which only the audience is looked at."""

    wal: msgspec.Raw
    is_rls_enabled: msgspec.Raw
    subscription_ids: msgspec.Raw | tuple[str, ...]
    errors: msgspec.Raw


class _Read(_Value):
    subscription_ids: msgspec.Raw


_decode = msgspec.json.Decoder(_Read).decode


def room(event: Event, size: int, limit: int, beside: int) -> int:
    """How many of its subscription ids a message of at most `limit` bytes has room for, where all of them make it
    `size` bytes large. `beside`: the bytes that each takes besides its own characters."""
    ids = event.subscription_ids
    each = max(map(len, ids), default=0) + beside
    return max(0, limit - PART_BYTES - (size - len(ids) * each)) // each


def smaller(event: Event, share: int | None) -> Iterator[Event] | None:
    """The events to send in its place, in their order; None: nothing smaller is left of it.

    `share`: how many of its subscription ids one message has room for. 0: the record by itself is too large. None: the
    sink does not know its own limit, which is then found by halving.
    """
    if event.dead_letter:
        letters = smaller_letters(event)
        return iter(letters) if letters else None
    number = _number_of_parts(event, share)
    if number > 1:
        return _parts(event, number)
    less = shrunk(event)
    return None if less is None else iter([less])


def last_resort(event: Event, reason: str, *, stop: bool) -> Event:
    """The dead letter of an event that the sink refuses, and nothing smaller would help.

    Raises PoisonError where it is to `stop` instead, and SinkRefused for what is a dead letter already.
    """
    if event.dead_letter:
        raise SinkRefused(f"the sink refuses dead letter {event.id}: {reason}. The position is unmoved")
    if stop:
        raise PoisonError(
            f"event {event.id} cannot be delivered: {reason}. The position is unmoved. What to do: mend the cause and start"
            " again, or let on_failure be dead_letter"
        )
    return rejected_letter(event, reason)


def _number_of_parts(event: Event, share: int | None) -> int:
    count = len(event.subscription_ids)
    if share is not None and share < count:
        return -(-count // share) if share else 0
    if count < 2:
        return 0
    audience = sum(map(len, event.subscription_ids)) + 3 * count
    return 2 if audience * _LARGE_AUDIENCE >= event.size - audience else 0


def _parts(event: Event, number: int) -> Iterator[Event]:
    """So many parts, as even as can be. Of a part that is itself divided, 2/3 becomes 3/6 and 4/6."""
    value = _decode(event.value)
    headers = dict(event.headers)
    before, of = map(int, headers.pop("part", "1/1").split("/"))
    whole_id = event.id.rpartition("/")[0] if of > 1 else event.id
    ids = event.subscription_ids
    for index in range(number):
        share = ids[len(ids) * index // number : len(ids) * (index + 1) // number]
        part_id = f"{whole_id}/part-{short_hash(share)}"
        part = f"{(before - 1) * number + index + 1}/{of * number}"
        yield msgspec.structs.replace(
            event,
            id=part_id,
            value=msgspec.json.encode(_Value(value.wal, value.is_rls_enabled, share, value.errors)),
            headers=[*(headers | {"id": part_id}).items(), ("part", part)],
            subscription_ids=share,
        )
