"""What a batch asks of row level security: rows and claims, put together so that each question is asked once."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bridge.pools import Bucket, Claims, Roster
from bridge.rls import Answer, Judge
from bridge.row_queries import Question
from bridge.share import Share, Verdict
from bridge.table import Rights, Table


class Way(msgspec.Struct, frozen=True):
    """How a row is judged: see Question."""

    absent: frozenset[str] = frozenset()
    current: bool = False
    record: bool = True
    same: frozenset[str] = frozenset()


AS_RECORDED = Way()
"""By the row that the change carries alone."""


class Inquiry:
    """Rows of one table that are judged in one way for the same buckets' claims."""

    def __init__(self, table: Table, rights: Rights, roster: Roster, way: Way, buckets: Sequence[Bucket]) -> None:
        self.table = table
        self.rights = rights
        self.roster = roster
        self.way = way
        self._buckets = buckets
        self.size = sum(len(bucket.by_claims) for bucket in buckets)
        """How many claims there are, at most."""
        self.lines: dict[str, int] = {}
        """Each distinct row as the text of a composite value, with its number."""
        self.joined: dict[int, Verdict] = {}
        """By line: what the join has answered, for all claims but those `apart`."""
        self.apart: frozenset[int] = frozenset()
        """The claims, by number, that the join cannot answer for."""
        self._asked: list[tuple[Claims, Mapping[int, int], Answer]] = []
        """Claims, each line's place in the question, and the answer."""
        self._verdicts: dict[int, Verdict] = {}

    @functools.cached_property
    def claims(self) -> list[Claims]:
        """The distinct claims of the buckets."""
        if len(self._buckets) == 1:
            return list(self._buckets[0].by_claims)
        return list({claims: None for bucket in self._buckets for claims in bucket.by_claims})

    def questions(self) -> Iterator[tuple[Claims, Mapping[int, int], Question]]:
        """What the join has not answered, for each claims value by itself."""
        every = {number: number for number in range(len(self.lines))}
        left = {number: at for at, number in enumerate(number for number in every if number not in self.joined)}
        if not left and not self.apart:
            return
        texts = tuple(self.lines)
        texts_left = tuple(texts[number] for number in left)
        for claims in self.claims:
            places, lines = (every, texts) if claims.number in self.apart else (left, texts_left)
            if lines:
                yield claims, places, self._question(claims, lines)

    def _question(self, claims: Claims, lines: tuple[str, ...]) -> Question:
        rights, way = self.rights, self.way
        return Question(
            self.table,
            rights.policies,
            rights.role,
            claims.text,
            lines,
            way.absent,
            way.current,
            way.record,
            way.same,
        )

    def take(self, claims: Claims, places: Mapping[int, int], answer: Answer) -> None:
        self._asked.append((claims, places, answer))

    def verdict(self, line: int) -> Verdict:
        known = self._verdicts.get(line)
        if known is None:
            known = self._verdicts[line] = self._made(line)
        return known

    def _made(self, line: int) -> Verdict:
        joined = self.joined.get(line)
        if joined is not None and (joined.everyone or not self._asked):
            return joined
        own: set[int] = set() if joined is None else set(joined.own)
        undecided: dict[int, str] = {}
        for claims, places, answer in self._asked:
            at = places.get(line)
            if at is None:
                continue
            if at in answer.undecided:
                undecided[claims.number] = answer.undecided[at]
            elif at in answer.shown:
                own.add(claims.number)
        return Verdict(shared=joined.shared if joined else frozenset(), own=own, undecided=undecided)


class Inquiries:
    """A batch's."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str, Way, tuple[Bucket, ...]], Inquiry] = {}

    def place(self, share: Share, way: Way, line: str) -> tuple[Inquiry, int]:
        """Ask about a row for all claims of the share's buckets: which inquiry, and which of its lines."""
        table, rights = share.judged.table, share.rights
        key = (table.oid, rights.role, way, tuple(share.buckets))
        inquiry = self._made.get(key)
        if inquiry is None:
            inquiry = self._made[key] = Inquiry(table, rights, share.roster, way, tuple(share.buckets))
        return inquiry, inquiry.lines.setdefault(line, len(inquiry.lines))

    def as_recorded(self) -> list[Inquiry]:
        """Those that a join may answer."""
        return [inquiry for inquiry in self._made.values() if inquiry.way == AS_RECORDED]

    def answer(self, judge: Judge) -> None:
        """Ask what is still open, all at once."""
        asked = [(inquiry, *each) for inquiry in self._made.values() for each in inquiry.questions()]
        answers = judge.ask([question for *_, question in asked])
        for (inquiry, claims, places, _), answer in zip(asked, answers, strict=True):
            inquiry.take(claims, places, answer)
