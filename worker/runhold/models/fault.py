"""What goes wrong with models, for scripts: ``fault.rate_limit(retry_after=2)``, ``fault.drop()``, …

Over HTTP the real client meets these and retries what is worth it. In process there is nothing to retry: each
fault is the error that the client would raise in the end.
"""

from __future__ import annotations

from runhold.models.script import (
    Answer,
    Drop,
    First,
    Hang,
    HttpError,
    NotJson,
    Outcome,
    say,
    without_usage,
)


def first(*faults: Outcome, then: Outcome) -> First:
    """``faults``, one for each time that the same messages are sent, and then ``then``.

    Runs that send the very same messages count together.
    """
    return First(faults=faults, then=then)


def http_error(
    status: int, message: str = "scripted error", *, code: str | None = None, retry_after: float | None = None
) -> HttpError:
    """An error status; ``retry_after`` in seconds."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return HttpError(status=status, message=message, code=code, headers=headers)


def rate_limit(retry_after: float | None = None) -> HttpError:
    """429: too many requests; ask to wait ``retry_after`` seconds."""
    return http_error(429, "scripted rate limit", code="rate_limit_exceeded", retry_after=retry_after)


def server_error(status: int = 500) -> HttpError:
    """The provider's own failure, such as 500, 502 or 503."""
    return http_error(status, "scripted outage")


def hang() -> Hang:
    """No answer ever comes."""
    return Hang()


def not_json() -> NotJson:
    """A 200 with an HTML page, as some proxies send."""
    return NotJson()


def drop(answer: Answer | None = None) -> Drop:
    """The connection is cut in the middle of the answer."""
    return Drop(answer=answer or say("This answer is cut before its end comes."))


def broken_arguments(tool: str) -> Answer:
    """A tool call whose arguments are not JSON."""
    return Answer(calls=((tool, '{"broken": ', None),), finish_reason="tool_calls")


def no_usage(answer: Answer) -> Answer:
    """``answer`` from a provider that does not report tokens."""
    return without_usage(answer)


def refuse(text: str) -> Answer:
    """The model refuses to answer."""
    return Answer(refusal=text)


def cut(text: str) -> Answer:
    """The answer ends at the output limit (finish reason ``length``)."""
    return Answer(text=text, finish_reason="length")


def filtered(text: str | None = None) -> Answer:
    """The provider's content filter stops the answer (finish reason ``content_filter``)."""
    return Answer(text=text, finish_reason="content_filter")
