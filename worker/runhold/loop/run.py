"""Run one claimed run until it leaves this worker.

    claimed ──► open calls? ──yes──► settle them (start, ask, pause) ──┐
       ▲            │no                                                │
       │            ▼                                                  │
       │        final answer? ──yes──► completed                       │
       │            │no                                                │
       │            ▼                                                  │
       └───── one step: guard, model, record, tools ◄──────────────────┘

Each turn looks only at the log: a run that another worker left in the middle goes on like one that never
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from decimal import Decimal
from functools import cache
from uuid import UUID

from runhold.agents import Agent, InvalidData
from runhold.loop.answers import final_answer
from runhold.loop.ask import Asker
from runhold.loop.calls import CallRunner
from runhold.loop.clock import SystemClock
from runhold.loop.contexts import Contexts
from runhold.loop.conversation import Conversation
from runhold.loop.cost import ModelCost
from runhold.loop.endings import Ending, Fenced, Outcome, completed, failed, released
from runhold.loop.finish import finish, unexpected
from runhold.loop.guard import Guard
from runhold.loop.journal import Journal
from runhold.loop.plan import Planner
from runhold.loop.ports import (
    ChatModel,
    Clock,
    Definition,
    PriceFunction,
    ProgressSink,
    Run,
    RunLog,
    RunSignals,
    Usage,
    UserClientFactory,
)
from runhold.loop.redaction import Redaction
from runhold.loop.reserve import Reserver
from runhold.loop.resume import Resumer
from runhold.loop.state import RunState
from runhold.loop.think import Thinker
from runhold.loop.user_access import UserAccess


def free_of_charge(model: str, usage: Usage) -> Decimal:
    """The price where nobody asks for one."""
    return Decimal(0)


async def run_agent(
    run: Run,
    agent: Agent,
    definition: Definition,
    *,
    model: ChatModel,
    log: RunLog,
    signals: RunSignals,
    definitions: Mapping[UUID, Definition] | None = None,
    clock: Clock | None = None,
    progress: ProgressSink | None = None,
    user_client: UserClientFactory | None = None,
    price: PriceFunction = free_of_charge,
    executor: Executor | None = None,
) -> Outcome:
    """Take a claimed run as far as it goes: to its end, to a question for a person, or back into the queue.

    All that matters is written to ``log``; the outcome is for the worker's own log and metrics. If the task
    that runs this is cancelled, it ends at once and writes nothing: that is how a worker gives up a run that
    it lost.

    :param definition: what ``agent`` was registered as.
    :param definitions: older definitions that the run's steps point to, where known: they sharpen the
        estimate of a request's tokens after a redeploy.
    :param signals: what the worker knows: cancels, gated tools, its lease, its shutdown.
    :param user_client: makes ``ctx.supabase``; None: there is none.
    :param price: what a model call costs, if that is known; nothing by default.
    :param executor: where tools run that are not ``async``; a small one of the process's own by default.
    :raises StoreError: the database refuses to store that the run failed.
    """
    clock = clock or SystemClock()
    journal = Journal(run, log, signals, clock)
    limits = agent.limits.tightened(run.limits)
    cost = ModelCost(definition.model, price)
    guard = Guard(limits, journal, cost)
    state = RunState(run.state)
    redaction = Redaction.of(agent)
    access = UserAccess()
    contexts = Contexts(run, state, progress, user_client, access, redaction)
    planner = Planner(agent, signals, contexts, redaction)
    runner = CallRunner(
        journal, signals, guard, limits, state, contexts, executor or _default_executor(), progress, access
    )
    conversation = Conversation(definition, run.input, definitions or {})
    asker = Asker(
        definition=definition,
        conversation=conversation,
        model=model,
        journal=journal,
        guard=guard,
        limits=limits,
        clock=clock,
        cost=cost,
        progress=progress,
    )
    thinker = Thinker(
        agent=agent,
        journal=journal,
        conversation=conversation,
        asker=asker,
        reserver=Reserver(journal, limits, cost),
        guard=guard,
        planner=planner,
        runner=runner,
        progress=progress,
        access=access,
    )
    resumer = Resumer(agent, journal, guard, planner, runner, access)
    turns = _Turns(agent, journal, signals, resumer, thinker)
    try:
        while True:
            outcome = await finish(journal, await turns.until_ending())
            if outcome is not None:
                return outcome
    except Fenced:
        return Outcome(kind="fenced", steps=journal.step_number)
    finally:
        journal.close()


class _Turns:
    """Turn after turn until the run ends or pauses."""

    def __init__(
        self, agent: Agent, journal: Journal, signals: RunSignals, resumer: Resumer, thinker: Thinker
    ) -> None:
        self._agent = agent
        self._journal = journal
        self._signals = signals
        self._resumer = resumer
        self._thinker = thinker

    async def until_ending(self) -> Ending:
        """:raises Fenced: the run is someone else's."""
        try:
            while True:
                self._journal.checkpoint()
                if (reason := self._signals.leave_because) is not None:
                    return released(reason)
                if self._resumer.open_calls:
                    await self._resumer.settle()
                else:
                    self._require_input()
                    self._require_no_answer_yet()
                    await self._thinker.take_step()
        except Ending as ending:
            return ending
        except Fenced:
            raise
        except Exception as error:
            return unexpected(self._journal, error)

    def _require_input(self) -> None:
        """:raises Ending: the input is not what the agent takes. Said before anything is spent."""
        if self._journal.steps:
            return
        try:
            self._agent.check_input(self._journal.run.input)
        except InvalidData as error:
            raise failed("INVALID_INPUT", f"The input does not fit the agent: {error}") from error

    def _require_no_answer_yet(self) -> None:
        """:raises Ending: the last step is the final answer, and nobody has said anything since it was given."""
        steps = self._journal.steps
        answer = final_answer(self._agent, steps[-1]) if steps else None
        if answer is None:
            return
        landed = steps[-1].landing is not None
        if landed or not self._journal.inbox:
            raise completed(answer.result, final=landed)


@cache
def _default_executor() -> Executor:
    return ThreadPoolExecutor(thread_name_prefix="runhold-tool")
