"""Run one tool call and say how it ended. Nothing that a tool does gets past this module as an exception."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from runhold.agents import RunContext, Tool
from runhold.agents.context import STATE_MAX_BYTES
from runhold.credentials import hide_credentials
from runhold.errors import ToolFailed
from runhold.loop.canonical import canonical_json, clean, clean_text
from runhold.loop.ports import MAX_RECORD_BYTES, Json, Result, ToolCall
from runhold.loop.redaction import hide, log_failure

logger = logging.getLogger(__name__)

SHOWN_MAX_BYTES: Final = 16 * 1024
"""What the model sees of one output. More costs tokens at every later step and rarely helps."""

_BESIDE_BYTES: Final = 4096
"""In the log, for what is beside an output and the state: names, numbers, the envelope."""

_NOTE_BYTES: Final = 100  # room for saying that something was cut
_ERROR_MAX: Final = 2_000
"""Characters of an error that are kept."""


class Work(Struct, frozen=True, kw_only=True):
    """A tool call that is ready to run: exactly ``call.input``, validated.

    :ivar hidden: the texts in it that must not come up in what others read.
    :ivar is_redacted: whether values of its output may be encrypted on their way into the log.
    """

    call: ToolCall
    tool: Tool[..., Any]
    arguments: BaseModel
    hidden: Sequence[str] = ()
    is_redacted: bool = False


class TimedOut(Exception):
    """The call's time passed."""


class NotStarted(Exception):
    """The call provably never ran: no thread was free in time, or nothing may start any more."""


class NoThread(NotStarted):
    """No thread was free in time."""


Silent = Literal["timed_out", "cancelled"]
"""How a call ended without a word of its own: its time passed, or its task was cancelled."""


class Ended(NamedTuple):
    """What came of a call."""

    result: Result
    silent: Silent | None = None


WhyNot = Callable[[], str | None]
"""Why a call must not start at this very moment, if so. Asked in the event loop and in threads."""


async def execute(
    work: Work,
    ctx: RunContext,
    *,
    timeout_s: float,
    max_output_bytes: int,
    executor: Executor,
    why_not: WhyNot,
) -> Ended:
    """Run the call within ``timeout_s`` seconds, counted from its start. Raises nothing.

    Cancelling the task that runs this ends the call: for an ``unsafe`` tool the outcome is then ``unknown``, unless
    it has not started: then it never will.

    :param why_not: asked last before the call starts, which may be long after it was put in line for a thread.
    """
    began = time.perf_counter()
    silent: Silent | None = None
    try:
        run = _in_loop if work.tool.is_async else _in_thread
        value = await run(work, ctx, timeout_s, executor, why_not)
    except NotStarted as error:
        end = _failed(str(error))
        silent = "timed_out" if isinstance(error, NoThread) else None
    except ToolFailed as error:
        end = _failed(hide(str(error), work.hidden) or "the tool failed.")
    except TimedOut:
        end, silent = _broke_off(work, f"timed out after {timeout_s:g} s"), "timed_out"
    except asyncio.CancelledError:
        end, silent = _broke_off(work, "it was cancelled"), "cancelled"
    except (Exception, SystemExit) as error:
        said = f"tool {work.tool.name} raised {type(error).__name__}"
        log_failure(ctx.logger, logging.WARNING, said, error, work.hidden)
        end = _broke_off(work, f"{type(error).__name__}: {hide(str(error), work.hidden)}")
    else:
        end = _returned(work, value, max_output_bytes)
    return Ended(_result(work, end, time.perf_counter() - began), silent)


def not_run(work: Work, reason: str) -> Result:
    """The result of a call whose intent was recorded and that was not started after all."""
    return _result(work, _failed(_not_run(reason)))


def abandoned(work: Work) -> Result:
    """The result of a call that ignores its cancellation and is left to itself."""
    logger.error("tool %s does not end when it is cancelled; it is left running", work.tool.name)
    return _result(work, _broke_off(work, "it did not end when it was told to"))


def without_access(work: Work) -> Result:
    """The result of an unsafe call that could not act as the run's user: what it did before that, nobody knows."""
    return _result(work, _broke_off(work, "the worker could not act as the run's user"))


# ------------------------------------------------------------------------------------------------ running


def _require_no_reason(why_not: WhyNot) -> None:
    """:raises NotStarted: there is one."""
    reason = why_not()
    if reason is not None:
        raise NotStarted(_not_run(reason))


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncGenerator[None]:
    """:raises TimedOut: the time has passed. A ``TimeoutError`` is the tool's own."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if limit.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            raise TimedOut from error
        raise


async def _in_loop(work: Work, ctx: RunContext, timeout_s: float, executor: Executor, why_not: WhyNot) -> Any:
    _require_no_reason(why_not)
    async with _within(timeout_s):
        return await work.tool.invoke(ctx, work.arguments)


async def _in_thread(
    work: Work, ctx: RunContext, timeout_s: float, executor: Executor, why_not: WhyNot
) -> Any:
    """Run a function that blocks. Its time counts from when a thread takes it up."""
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    started: asyncio.Future[None] = loop.create_future()

    def mark_started() -> None:
        if not started.done():
            started.set_result(None)

    def body() -> Any:
        _require_no_reason(why_not)
        loop.call_soon_threadsafe(mark_started)
        return context.run(work.tool.invoke, ctx, work.arguments)

    queued = executor.submit(body)
    finished = asyncio.wrap_future(queued)
    try:
        await asyncio.wait({started, finished}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not started.done() and queued.cancel():
            raise NoThread(f"no thread was free within {timeout_s:g} s")
        async with _within(timeout_s):
            return await finished
    except asyncio.CancelledError:
        if queued.cancel():
            raise NotStarted(_not_run("it was cancelled while it waited for a thread")) from None
        raise
    finally:
        queued.cancel()  # no thread shall take it up later; one that runs can't be stopped


# ------------------------------------------------------------------------------------------------ results


class _End(NamedTuple):
    """How a call ended, as the fields of its result."""

    status: Literal["succeeded", "failed", "unknown"]
    output: Json = None
    shown: str | None = None
    error: str | None = None


def _result(work: Work, end: _End, seconds: float = 0) -> Result:
    return Result(
        step_number=work.call.step_number,
        position=work.call.position,
        status=end.status,
        output=end.output,
        shown=end.shown,
        error=end.error,
        latency_ms=round(seconds * 1000),
    )


def _not_run(reason: str) -> str:
    return f"this call was not run: {reason}."


def _told(error: str) -> str:
    """``error`` as the model and the run's user are told it."""
    return clean_text(hide_credentials(error))[:_ERROR_MAX]


def _failed(error: str) -> _End:
    return _End("failed", error=_told(error))


def _broke_off(work: Work, what: str) -> _End:
    """The call ended without saying whether it took effect."""
    if work.tool.effect == "unsafe":
        return _End("unknown", error=_told(what))
    return _failed(what)


def _returned(work: Work, value: Any, max_output_bytes: int) -> _End:
    """The call returned. Whatever it returned: an effect has happened and must not look as if it had failed."""
    try:
        output: Json = clean(to_jsonable_python(value, fallback=lambda item: f"<{type(item).__name__}>"))
        text = output if isinstance(output, str) else canonical_json(output)
    except (PydanticSerializationError, ValueError, RecursionError, TypeError) as error:
        return _unshowable(work, f"it returned something without a JSON form ({error})")
    size = len(text.encode())
    shown = _cut(text, size) if size > SHOWN_MAX_BYTES else None
    allowed = min(max_output_bytes, MAX_RECORD_BYTES)
    if size <= allowed and shown is not None:
        size = _recorded_bytes(work, output, shown)
        allowed = MAX_RECORD_BYTES
    if size > allowed:
        return _unshowable(
            work,
            f"its output of {size} bytes is over the limit of {allowed}; "
            "large data belongs into Storage, to be passed on as a path",
        )
    return _End("succeeded", output, shown)


def _recorded_bytes(work: Work, output: Json, shown: str) -> int:
    """What the result takes in the log, at most: escaped, with the state beside it, and encrypted if it must be."""
    size = len(canonical_json(output).encode()) + len(canonical_json(shown).encode()) + STATE_MAX_BYTES
    return _BESIDE_BYTES + (2 * size if work.is_redacted else size)


def _unshowable(work: Work, why: str) -> _End:
    if work.tool.effect == "read":
        return _failed(f"the call gave no usable output: {why}.")
    return _End("succeeded", shown=clean_text(f"The call took effect, but {why}."))


def _cut(text: str, size: int) -> str:
    head = text.encode()[: SHOWN_MAX_BYTES - _NOTE_BYTES].decode("utf-8", "ignore")
    return f"{head}\n[cut here: these are the first {len(head.encode())} of {size} bytes]"
