"""Run the tool calls of a step: in parallel, intents durable before effects, results written when known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final, Literal

from msgspec import Struct

from runhold.agents import Limits
from runhold.loop.endings import Ending
from runhold.loop.execute import Ended, Silent, Work, abandoned, execute, not_run, without_access
from runhold.loop.guard import Guard
from runhold.loop.journal import Journal
from runhold.loop.plan import ContextFactory
from runhold.loop.ports import CallStatus, Entry, ProgressSink, Result, RunSignals, ToolCall
from runhold.loop.state import RunState
from runhold.loop.user_access import UserAccess
from runhold.loop.waiting import until_any

CANCEL_GRACE_S: Final = 5.0
"""How long a running unsafe call may go on after a cancel: a known outcome is worth a short wait."""

LEASE_WAIT_S: Final = 5.0
"""How long a recorded intent waits for the lease to be renewed before the call counts as not run."""

ABANDON_AFTER_S: Final = 2.0
"""How long after its time-out, or its cancellation, a call that does not end is waited for."""

HEAR_AFTER_S: Final = 1.0
"""After tools that took this long the run waits until their results are stored: what people said to it meanwhile comes
with that answer, and the model shall hear it at its next step. Beside such tools one round trip is nothing."""

_LEASE_POLL_S = 0.1

Obstacle = Literal["cancelled", "no_time", "lease"]
"""Why no effect may start now."""

_OBSTACLES: Final[dict[Obstacle, str]] = {
    "cancelled": "the run was cancelled",
    "no_time": "the run had no time left",
    "lease": "the worker was about to lose the run",
}


class Launched(Struct, frozen=True, kw_only=True):
    """A call under way. ``to_the_end``: the run's own time ends before the tool's does."""

    work: Work
    to_the_end: bool


Running = dict[asyncio.Task[Ended], Launched]


class CallRunner:
    """Runs prepared calls whose intents are in the journal."""

    def __init__(
        self,
        journal: Journal,
        signals: RunSignals,
        guard: Guard,
        limits: Limits,
        state: RunState,
        context: ContextFactory,
        executor: Executor,
        progress: ProgressSink | None,
        access: UserAccess,
    ) -> None:
        self._journal = journal
        self._signals = signals
        self._guard = guard
        self._limits = limits
        self._state = state
        self._context = context
        self._executor = executor
        self._progress = progress
        self._access = access
        self._out_of_time = False

    async def run(self, works: Sequence[Work]) -> None:
        """Run ``works`` and write their results. Reads start at once, effects when their intents are durable.

        Returns early, with whatever came of the calls, when a cancel is requested.

        Calls that can be repeated and that the run's end (a cancel, its total time) cuts off get no result: the
        database says of them that they were cut off, and a retry runs them again, under their keys.

        :raises Ending: the database says stop: no effect has started; or the run's time is over.
        :raises Fenced: the run is someone else's. What runs is cancelled, nothing is written.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        running: Running = {}
        if self._journal.cancel_requested:
            self._write([(work, not_run(work, _OBSTACLES["cancelled"])) for work in works])
            return
        try:
            self._launch(running, (work for work in works if work.tool.effect == "read"))
            effects = [work for work in works if work.tool.effect != "read"]
            if effects:
                await self._journal.confirm()
                await self._launch_effects(running, self._not_gated(effects))
            await self._collect(running)
        finally:
            for task in running:
                task.cancel()
        self._access.require()
        self._state.require_storable()
        if self._out_of_time:
            raise self._guard.exceeded("total_timeout_s")
        if clock() - began >= HEAR_AFTER_S and not self._journal.cancel_requested:
            await self._journal.confirm()

    async def _launch_effects(self, running: Running, effects: Sequence[Work]) -> None:
        obstacle = await self.obstacle() if effects else None
        if obstacle is None:
            self._launch(running, effects)
        else:
            self._do_not_run(effects, obstacle)

    def _not_gated(self, effects: Sequence[Work]) -> list[Work]:
        """Those whose intents stand. The others wait for a person: an operator gated their tools a moment ago."""
        for work in effects:
            if not self._journal.is_to_run(work.call):
                self.tell(work.call, "awaiting_review")
        return [work for work in effects if self._journal.is_to_run(work.call)]

    async def obstacle(self) -> Obstacle | None:
        """Why no effect may start now, if so. A lease that is about to end gets a moment to be renewed."""
        waited_s = 0.0
        while not self._journal.cancel_requested:
            if self._guard.seconds_left <= 0:
                return "no_time"
            if self._signals.may_start_effect():
                return None
            if waited_s >= LEASE_WAIT_S:
                return "lease"
            await asyncio.sleep(_LEASE_POLL_S)
            waited_s += _LEASE_POLL_S
        return "cancelled"

    def _do_not_run(self, effects: Sequence[Work], obstacle: Obstacle) -> None:
        """Say of recorded intents that nothing came of them, but for those that a retry may take up as they are."""
        if obstacle == "no_time":
            self._out_of_time = True
            effects = [work for work in effects if work.tool.effect == "unsafe"]
        self._write([(work, not_run(work, _OBSTACLES[obstacle])) for work in effects])

    def _why_not(self, work: Work) -> str | None:
        """Why ``work`` must not start now. Called in threads, too: it only reads."""
        if self._journal.cancel_requested:
            return _OBSTACLES["cancelled"]
        if work.tool.effect != "read" and not self._signals.may_start_effect():
            return _OBSTACLES["lease"]
        return None

    def _launch(self, running: Running, works: Iterable[Work]) -> None:
        for work in works:
            left_s = self._guard.seconds_left
            call = execute(
                work,
                self._context(work.call),
                timeout_s=min(work.tool.timeout_s, left_s),
                max_output_bytes=self._limits.max_output_bytes,
                executor=self._executor,
                why_not=partial(self._why_not, work),
            )
            launched = Launched(work=work, to_the_end=left_s < work.tool.timeout_s)
            running[asyncio.create_task(call, name=f"tool {work.tool.name}")] = launched
            self.tell(work.call, "running")

    async def _collect(self, running: Running) -> None:
        """Write results as they come in, until nothing runs any more."""
        clock = asyncio.get_running_loop().time
        interrupted = self._journal.interrupted
        deadline = clock() + _patience_s(running)
        while running:
            await until_any((*running, interrupted), max(0, deadline - clock()))
            done = [task for task in running if task.done()]
            self._write(self._take(running, done))
            if interrupted.done():
                await self._wind_down(running)
            elif not done:
                self._abandon(running)

    async def _wind_down(self, running: Running) -> None:
        """A cancel: what only reads or can be repeated ends now; what can't be undone may finish soon.

        :raises Ending: it is no cancel but a limit.
        :raises Fenced: it is no cancel: the run is lost.
        """
        try:
            self._journal.checkpoint()
        except Ending as ending:
            if ending.transition.to != "cancelled":
                raise
        for task, launched in running.items():
            if launched.work.tool.effect != "unsafe":
                task.cancel()
        for grace_s in (CANCEL_GRACE_S, ABANDON_AFTER_S):
            if running:
                done, _ = await asyncio.wait(running, timeout=grace_s)
                self._write(self._take(running, done))
            for task in running:
                task.cancel()
        self._abandon(running)

    def _abandon(self, running: Running) -> None:
        """Give up waiting for calls that do not end."""
        for task in running:
            task.cancel()
        self._write(
            [
                (launched.work, abandoned(launched.work))
                for launched in running.values()
                if not self._is_left_open(launched, "timed_out")
            ]
        )
        running.clear()

    def _take(self, running: Running, done: Iterable[asyncio.Future[Any]]) -> list[tuple[Work, Result]]:
        """Take what has ended out of ``running``: the results, in the order of the calls."""
        ended = [(running.pop(task), task.result()) for task in [*running] if task in done]
        told = [
            (
                launched.work,
                without_access(launched.work) if self._access.has_fault(launched.work.call) else end.result,
            )
            for launched, end in ended
            if not self._is_left_open(launched, end.silent)
        ]
        return sorted(told, key=lambda pair: pair[0].call.position)

    def _is_left_open(self, launched: Launched, silent: Silent | None) -> bool:
        """Whether a call gets no result, as it may run again: the run's end ended it, or it could not act as the user.

        Notes if it was the end of the run's time.
        """
        if launched.work.tool.effect == "unsafe":
            return False
        if self._access.has_fault(launched.work.call):
            return True  # it runs again when the worker can act as the user
        if silent is None:
            return False
        if self._journal.cancel_requested:
            return True
        time_is_over = silent == "timed_out" and launched.to_the_end
        self._out_of_time = self._out_of_time or time_is_over
        return time_is_over

    def _write(self, ended: Sequence[tuple[Work, Result]]) -> None:
        if not ended:
            return
        results = [result for _, result in ended]
        large = [result for result in results if result.shown is not None]
        if len(large) > 1:  # together they may be too large for one record
            for result in large:
                self._journal.append(Entry(results=[result]))
            results = [result for result in results if result.shown is None]
        self._journal.append(Entry(results=results, state=self._state.take_changed()))
        for work, result in ended:
            self.tell(work.call, result.status)

    def tell(self, call: ToolCall, status: CallStatus) -> None:
        """Tell whoever watches how a call stands."""
        if self._progress is not None:
            where = {"step": call.step_number, "position": call.position}
            self._progress("tool", {**where, "name": call.tool_name, "status": status})


def _patience_s(running: Running) -> float:
    """After how long all of ``running`` have ended, unless one ignores its cancellation.

    A blocking function may spend its time-out twice: waiting for a thread, and running.
    """
    return max((2 * each.work.tool.timeout_s for each in running.values()), default=0) + ABANDON_AFTER_S
