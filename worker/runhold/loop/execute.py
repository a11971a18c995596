"""Run one tool call and say how it ended. Nothing that a tool does gets past this module as an exception."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from runhold.agents import RunContext, Tool
from runhold.errors import ToolFailed
from runhold.loop.canonical import canonical_json, clean, clean_text
from runhold.loop.ports import Json, Result, ToolCall

logger = logging.getLogger(__name__)

SHOWN_MAX_BYTES: Final = 16 * 1024
"""What the model sees of one output. More costs tokens at every later step and rarely helps."""

_ERROR_MAX = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A tool call that is ready to run: exactly ``call.input``, validated."""

    call: ToolCall
    tool: Tool[..., Any]
    arguments: BaseModel


class NotStarted(Exception):
    """The call provably never ran: no thread was free in time."""


async def execute(
    work: Work, ctx: RunContext, *, timeout_s: float, max_output_bytes: int, executor: Executor
) -> Result:
    """Run the call within ``timeout_s`` seconds, counted from its start. Raises nothing.

    Cancelling the task that runs this ends the call: for an ``unsafe`` tool the outcome is then ``unknown``.
    """
    began = time.perf_counter()
    try:
        value = await (_in_loop if work.tool.is_async else _in_thread)(work, ctx, timeout_s, executor)
    except NotStarted as error:
        result = _result(work, "failed", error=str(error))
    except ToolFailed as error:
        result = _result(work, "failed", error=str(error) or "the tool failed.")
    except TimeoutError as error:
        timed_out = f"timed out after {timeout_s:g} s" if not str(error) else f"TimeoutError: {error}"
        result = _broke_off(work, timed_out)
    except asyncio.CancelledError:
        result = _broke_off(work, "it was cancelled")
    except (Exception, SystemExit) as error:
        ctx.logger.warning("tool %s raised %s", work.tool.name, type(error).__name__, exc_info=error)
        result = _broke_off(work, f"{type(error).__name__}: {error}")
    else:
        result = _returned(work, value, max_output_bytes)
    return _timed(result, time.perf_counter() - began)


def _broke_off(work: Work, what: str) -> Result:
    """The call ended without saying whether it took effect."""
    return _result(work, "unknown" if work.tool.effect == "unsafe" else "failed", error=what)


def not_run(work: Work, reason: str) -> Result:
    """The result of a call whose intent was recorded and that was not started after all."""
    return _result(work, "failed", error=f"this call was not run: {reason}.")


def abandoned(work: Work) -> Result:
    """The result of a call that ignores its cancellation and is left to itself."""
    logger.error("tool %s does not end when it is cancelled; it is left running", work.tool.name)
    return _broke_off(work, "it did not end when it was told to")


# ------------------------------------------------------------------------------------------------ running


async def _in_loop(work: Work, ctx: RunContext, timeout_s: float, executor: Executor) -> Any:
    async with asyncio.timeout(timeout_s):
        return await work.tool.invoke(ctx, work.arguments)


async def _in_thread(work: Work, ctx: RunContext, timeout_s: float, executor: Executor) -> Any:
    """Run a function that blocks. Its time counts from when a thread takes it up, not from when it was
    queued."""
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    started: asyncio.Future[None] = loop.create_future()

    def mark_started() -> None:
        if not started.done():
            started.set_result(None)

    def body() -> Any:
        loop.call_soon_threadsafe(mark_started)
        return context.run(work.tool.invoke, ctx, work.arguments)

    queued = executor.submit(body)
    finished = asyncio.wrap_future(queued)
    try:
        await asyncio.wait({started, finished}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not started.done() and queued.cancel():
            raise NotStarted(f"no thread was free within {timeout_s:g} s")
        async with asyncio.timeout(timeout_s):
            return await finished
    finally:
        queued.cancel()  # no thread shall take it up later; one that runs can't be stopped


# ------------------------------------------------------------------------------------------------ results


def _returned(work: Work, value: Any, max_output_bytes: int) -> Result:
    """The result of a call that returned. Whatever it returned: an effect has happened and must not look
    failed."""
    try:
        output: Json = clean(to_jsonable_python(value, fallback=lambda item: f"<{type(item).__name__}>"))
        text = output if isinstance(output, str) else canonical_json(output)
    except (PydanticSerializationError, ValueError, RecursionError, TypeError) as error:
        return _unshowable(work, f"it returned something without a JSON form ({error})")
    size = len(text.encode())
    if size > max_output_bytes:
        return _unshowable(
            work,
            f"its output of {size} bytes is over the limit of {max_output_bytes}; "
            "large data belongs into Storage, to be passed on as a path",
        )
    return _result(
        work, "succeeded", output=output, shown=_cut(text, size) if size > SHOWN_MAX_BYTES else None
    )


def _unshowable(work: Work, why: str) -> Result:
    if work.tool.effect == "read":
        return _result(work, "failed", error=f"the call gave no usable output: {why}.")
    return _result(work, "succeeded", shown=clean_text(f"The call took effect, but {why}."))


def _cut(text: str, size: int) -> str:
    head = text.encode()[: SHOWN_MAX_BYTES - 100].decode("utf-8", "ignore")
    return f"{head}\n[cut here: these are the first {len(head.encode())} of {size} bytes]"


def _result(
    work: Work, status: Any, *, output: Json = None, shown: str | None = None, error: str | None = None
) -> Result:
    return Result(
        step_number=work.call.step_number,
        position=work.call.position,
        status=status,
        output=output,
        shown=shown,
        error=None if error is None else clean_text(error)[:_ERROR_MAX],
    )


def _timed(result: Result, seconds: float) -> Result:
    return replace(result, latency_ms=round(seconds * 1000))
