"""Entries → the JSON that ``agent_worker_record`` takes.

Every part is encoded the moment it is appended: what a tool or the loop does to its objects afterwards can't
change what is sent, and an entry that must be repeated is repeated byte for byte.
"""

from __future__ import annotations

from runhold.loop.ports import Entry, OpenReview, Reserve, Result, Start, Step, ToolCall, Transition
from runhold.store.scrub import encode

CallKey = tuple[int, int]  # step_number, position


def splice(head: bytes, tail: bytes) -> bytes:
    """Two JSON objects as one: ``{"a": 1}`` and ``{"b": 2}`` → ``{"a": 1, "b": 2}``. Neither may be empty."""
    return head[:-1] + b"," + tail[1:]


def encode_step(step: Step) -> bytes:
    """An item of ``steps``."""
    usage = step.usage
    return encode(
        {
            "step_number": step.step_number,
            "definition_id": step.definition_id,
            "message": step.message,
            "injected": step.injected,
            "max_output_tokens": step.max_output_tokens,
            "streamed": step.streamed,
            "landing": step.landing,
            "finish_reason": step.finish_reason,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_tokens": usage.cached_tokens,
            "usage_estimated": usage.estimated,
            "cost_usd": step.cost_usd,
            "latency_ms": step.latency_ms,
            "delivered": step.delivered,
        },
    )


def encode_call(call: ToolCall) -> tuple[bytes, bytes]:
    """An item of ``calls`` in two halves to be spliced: the intent, and the outcome so far."""
    intent = {
        "step_number": call.step_number,
        "position": call.position,
        "call_id": call.call_id,
        "tool_name": call.tool_name,
        "input": call.input,
        "effect": call.effect,
    }
    return encode(intent), encode_outcome(call)


def encode_outcome(outcome: ToolCall | Result) -> bytes:
    """How a call stands: the half that a result replaces while its intent is still unsent."""
    return encode(
        {
            "status": outcome.status,
            "output": outcome.output,
            "shown": outcome.shown,
            "error": outcome.error,
            "latency_ms": outcome.latency_ms,
        },
    )


def encode_key(item: ToolCall | Result | Start | OpenReview) -> bytes:
    """Which call an item is about; an item of ``starts``."""
    return b'{"step_number":%d,"position":%d}' % (item.step_number, item.position)


def encode_review(review: OpenReview) -> bytes:
    """An item of ``reviews``."""
    return splice(encode_key(review), encode({"kind": review.kind, "summary": review.summary}))


def encode_reserve(reserve: Reserve) -> bytes:
    """The value of ``reserve``."""
    usd = {} if reserve.max_usd is None else {"min_usd": reserve.min_usd, "max_usd": reserve.max_usd}
    return encode({"min_tokens": reserve.min_tokens, "max_tokens": reserve.max_tokens, **usd})


def encode_transition(transition: Transition) -> bytes:
    """The value of ``transition``."""
    return encode(
        {
            "to": transition.to,
            "result": transition.result,
            "error": transition.error,
            "detail": transition.detail,
            "reason": transition.reason,
            "delay_ms": transition.delay_ms,
            **({"final": True} if transition.final else {}),
            **({"counted": True} if transition.counted else {}),
        },
    )


def encode_state(state: dict[str, object]) -> bytes:
    """The value of ``state``."""
    return encode(state)


def is_transition_only(entry: Entry) -> bool:
    """Whether ``entry`` does nothing but end the run (with the time it took)."""
    return entry.transition is not None and not (
        entry.step
        or entry.calls
        or entry.reviews
        or entry.starts
        or entry.results
        or entry.reserve
        or entry.state is not None
    )
