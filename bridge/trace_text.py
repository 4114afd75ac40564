"""A Trace for people. Pure."""

import json
from collections.abc import Iterator

from bridge.printable import printable
from bridge.trace_facts import OUTCOMES, ChangeFacts, Detail, FilterAnswer, Reason, Trace


def text(trace: Trace) -> str:
    return "\n".join(map(printable, _lines(trace)))


def _lines(trace: Trace) -> Iterator[str]:
    change = trace.change
    of = f"{change.schema}.{change.table} {_key(change)}"
    yield f"{change.kind} of {of}" if trace.is_recorded else f"{of} as it is now"
    if trace.is_recorded:
        yield f"  change  {change.id}"
        yield f"  at      {change.lsn}, committed at {change.commit_lsn} on {change.committed_at} by transaction {change.xid}"
    for note in trace.notes:
        yield f"  note    {note}"
    if trace.others:
        yield ""
        yield "other changes of that row in the WAL that is kept (--lsn chooses one):"
        for each in trace.others:
            yield f"  {each.committed_at}  {each.kind:6}  {each.lsn}  {each.id}"
    yield ""
    if not trace.reasons:
        yield "nobody subscribes to that table"
    yield from (_reason(each) for each in trace.reasons)
    for detail in trace.details:
        yield ""
        yield from _detail(detail)


def _key(change: ChangeFacts) -> str:
    return json.dumps(change.key, ensure_ascii=False)


def _reason(reason: Reason) -> str:
    after = f"; {reason.made_after:,} of them younger than the change" if reason.made_after else ""
    ids = ", ".join(map(str, reason.samples))
    more = ", …" if reason.subscriptions > len(reason.samples) else ""
    noun = "subscription" if reason.subscriptions == 1 else "subscriptions"
    role = f" of {reason.role}" if reason.role else ""
    return f"{reason.subscriptions:,} {noun}{role}: {OUTCOMES[reason.outcome]} (id {ids}{more}{after})"


def _detail(detail: Detail) -> Iterator[str]:
    who = [detail.role or "no role", *([f"sub {detail.subject}"] if detail.subject is not None else [])]
    made = f", made {detail.created_at}Z" if detail.created_at else ""
    why = f": {detail.why}" if detail.why else ""
    yield f"subscription {detail.id} ({detail.subscription_id}), {', '.join(who)}, action {detail.action}{made}"
    yield f"  {OUTCOMES[detail.outcome]}{why}"
    if detail.made_after:
        yield (
            "  it is younger than the change: a bridge that streams hears of a subscription at its place in the stream, so the"
            " change was not for it, unless the bridge started only after that"
        )
    yield from (f"  filter  {_filter(each)}" for each in detail.filters)
    if detail.row_security is not None:
        yield f"  row level security {detail.row_security}"
    for policy in detail.policies:
        kind = "permissive" if policy.permissive else "restrictive"
        because = f" ({policy.why})" if policy.why else ""
        yield f"  policy  {policy.name} ({kind}): {policy.answer}{because}"
        yield from (f"            {line}" for line in policy.expression.splitlines())


def _filter(answer: FilterAnswer) -> str:
    passes = {True: "passes", False: "does not pass", None: "cannot be told"}[answer.passes]
    value = "NULL" if answer.value is None else answer.value
    return f"{answer.filter}: {passes}, {answer.why or f'the change has {value}'}"
