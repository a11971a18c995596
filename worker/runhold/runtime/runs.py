"""Runs the loop on each claimed run, and sees to it that no run stays behind, however its task ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from uuid import UUID

from runhold.agents import Agent
from runhold.errors import Refused, RunholdError, StoreError, StoreUnavailable
from runhold.loop import Outcome, run_agent
from runhold.loop.ports import (
    ChatModel,
    Definition,
    Entry,
    ProgressSink,
    ReleaseReason,
    Run,
    Transition,
)
from runhold.loop.redaction import Redaction
from runhold.models.prices import Prices
from runhold.runtime.held import HeldRun, HeldRuns, Signals
from runhold.runtime.user_client import UserClients
from runhold.runtime.waits import Waits
from runhold.store.answers import GatewayAnswer, UnreadableAnswer, is_retryable
from runhold.store.group_commit import GroupCommit
from runhold.store.records import Claim, UnreadableRun, UserClaims
from runhold.store.redact import RedactKeyMissing, Seal, SealedLog, Vault
from runhold.store.run_log import QueuedLog

logger = logging.getLogger(__name__)

GIVE_BACK_DELAY_MS: Final = 30_000
"""A run whose task failed for a reason of ours goes on later, here or elsewhere: not at once, or it would fail
in circles as fast as the database can claim."""

LOG_RETRY_S: Final = 1.0
"""After a run's log got no answer within the deadline of the call."""

GIVE_BACK_TIMEOUT_S: Final = 15.0
"""For writing that; then the heartbeat, which does not name the run any more, gives it back."""


class RunsPort(Protocol):
    """The calls that starting a run may need."""

    async def definitions(self, ids: Sequence[UUID]) -> list[Definition]: ...

    async def log(self, worker_id: UUID, execution_id: UUID, fence: int) -> Run: ...

    async def user_claims(self, worker_id: UUID, execution_id: UUID, fence: int) -> UserClaims | None: ...


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What every run of this process works with."""

    agents: Mapping[str, Agent]
    model: ChatModel
    executor: Executor
    prices: Prices
    users: UserClients
    progress: Callable[[UUID], ProgressSink | None]
    vault: Vault | None = None


class Runs:
    """The running tasks of one registered worker.

    :ivar outcomes: how runs left this worker, by kind.
    """

    def __init__(
        self,
        *,
        worker_id: UUID,
        port: RunsPort,
        equipment: Equipment,
        definitions: Mapping[str, Definition],
        writer: GroupCommit,
        held: HeldRuns,
        may_start_effect: Callable[[], bool],
        leave_because: Callable[[str], ReleaseReason | None],
        waits: Waits,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self._worker_id = worker_id
        self._port = port
        self._equipment = equipment
        self._redactions = {name: Redaction.of(agent) for name, agent in equipment.agents.items()}
        self._current = definitions
        self._known: dict[UUID, Definition] = {each.id: each for each in definitions.values()}
        self._writer = writer
        self._held = held
        self._may_start_effect = may_start_effect
        self._leave_because = leave_because
        self._waits = waits
        self._others: set[asyncio.Task[None]] = set()

    def take(self, claim: Claim) -> None:
        """Start what was claimed. All of it is held when this returns."""
        for run in claim.runs:
            self._start(run)
        for run in claim.truncated:
            self._start(run, truncated=True)
        for broken in claim.unreadable:
            task = asyncio.create_task(self._give_back_unreadable(broken), name=f"give back run {broken.id}")
            self._others.add(task)
            task.add_done_callback(self._others.discard)

    def _start(self, run: Run, *, truncated: bool = False) -> None:
        log = self._writer.open(run.id, run.fence)
        signals = Signals(run, may_start_effect=self._may_start_effect, leave_because=self._leave_because)
        held = HeldRun(run, log, signals)
        self._held.add(held)
        held.task = asyncio.create_task(self._run(held, truncated), name=f"run {run.id}")
        # a task that is cancelled before its first turn runs none of its `finally`
        held.task.add_done_callback(lambda _: self._let_go(held))

    async def _run(self, held: HeldRun, truncated: bool) -> None:
        began = time.monotonic()
        fields = {"run_id": str(held.run.id), "attempt": held.run.attempt, "agent_type": held.run.agent_type}
        try:
            outcome = await self._advance(held, await self._whole(held.run) if truncated else held.run)
        except asyncio.CancelledError:
            logger.info("run dropped: %s", held.released, extra={**fields, "action": "dropped"})
            self.outcomes["dropped"] += 1
        except Exception as error:
            # The loop turns what it meets into endings; what gets here is a fault of ours or of the database.
            logger.exception("run failed in the worker", extra={**fields, "action": "worker_error"})
            self.outcomes["given_back"] += 1
            await self._give_back(held.log, f"worker error: {type(error).__name__}", counted=True)
        else:
            self.outcomes[outcome.kind] += 1
            if outcome.kind == "released":
                self._waits.note(held.run.agent_type, held.run.id, outcome.detail)
            self._say(outcome, time.monotonic() - began, fields)
        finally:
            if held.released is None:
                held.log.close()  # else whoever took it away does that, when all is written
            self._let_go(held)

    def _let_go(self, held: HeldRun) -> None:
        """Free its slot, unless something is still to be written: the heartbeat must name it until then, or the
        database takes the run for forgotten and refuses the rest."""
        if held.log.closed:
            self._held.remove(held)

    async def _whole(self, run: Run) -> Run:
        """A run that was too large for the claim's answer. An outage is waited for: it is not the run's fault.

        :raises StoreError: its log does not arrive, or it is not ours any more.
        """
        while True:
            try:
                return await self._port.log(self._worker_id, run.id, run.fence)
            except (StoreUnavailable, Refused) as error:
                is_content = isinstance(error, GatewayAnswer) and error.may_be_about_content
                if is_content or isinstance(error, UnreadableAnswer) or not is_retryable(error):
                    raise
                await asyncio.sleep(LOG_RETRY_S)

    async def _advance(self, held: HeldRun, run: Run) -> Outcome:
        equipment = self._equipment
        agent = equipment.agents[run.agent_type]
        seal = Seal(equipment.vault, self._redactions[run.agent_type], run.user_id)
        try:
            run = seal.run(run)
        except RedactKeyMissing as error:
            return await self._leave_to_who_has_the_key(held.log, run, error)
        return await run_agent(
            run,
            agent,
            self._current[run.agent_type],
            model=equipment.model,
            log=held.log if equipment.vault is None else SealedLog(held.log, seal, run.calls),
            signals=held.signals,
            definitions=await self._definitions_of(run),
            progress=equipment.progress(run.id),
            user_client=equipment.users.for_run(
                partial(self._port.user_claims, self._worker_id, run.id, run.fence)
            ),
            price=equipment.prices.cost,
            executor=equipment.executor,
        )

    async def _leave_to_who_has_the_key(self, log: QueuedLog, run: Run, error: Exception) -> Outcome:
        """Nothing of the run can be repeated to the model here; another worker may be able to."""
        detail = {
            "waiting_for": "redact_key",
            "message": f"The run waits for a worker that can read it: {error}.",
        }
        transition = Transition(
            to="pending", reason="missing_key", delay_ms=GIVE_BACK_DELAY_MS, detail=detail
        )
        verdict = await log.append(Entry(transition=transition))
        kind = "cancelled" if verdict.cancel_requested else "released"
        return Outcome(kind=kind, code="missing_key", detail=detail, steps=len(run.steps))

    async def _definitions_of(self, run: Run) -> Mapping[UUID, Definition]:
        """What the agent was at earlier steps: known, or fetched. Only estimates depend on it, so that a
        failure costs precision and nothing else."""
        missing = {step.definition_id for step in run.steps} - self._known.keys()
        if missing:
            try:
                for definition in await self._port.definitions(sorted(missing)):
                    self._known[definition.id] = definition
            except RunholdError as error:
                logger.warning("older definitions of run %s are not known: %s", run.id, error)
        return self._known

    def _say(self, outcome: Outcome, seconds: float, fields: Mapping[str, Any]) -> None:
        logger.info(
            "run %s%s after %d steps, %.2f s here",
            outcome.kind,
            f" ({outcome.code})" if outcome.code else "",
            outcome.steps,
            seconds,
            extra={**fields, "action": outcome.kind, "code": outcome.code, "step": outcome.steps},
        )

    # ----------------------------------------------------------------------- runs that can't go on here

    async def _give_back_unreadable(self, broken: UnreadableRun) -> None:
        message = f"this worker can't read its record: {broken.problem}"
        self._waits.note(broken.agent_type, broken.id, {"waiting_for": "worker", "message": message})
        await self._give_back(
            self._writer.open(broken.id, broken.fence), "its record can't be read", counted=False
        )

    async def _give_back(self, log: QueuedLog, reason: str, *, counted: bool) -> None:
        """:param counted: it may fail so everywhere, and must come to an end; else it waits for another worker."""
        transition = Transition(
            to="pending",
            reason=reason,
            delay_ms=GIVE_BACK_DELAY_MS,
            counted=counted,
            detail={
                **({} if counted else {"waiting_for": "worker"}),
                "message": f"The run could not go on ({reason}); the worker's log says where.",
            },
        )
        # if it holds a reservation, its model may have been at work
        entry = Entry(transition=transition, charge=True)
        try:
            await asyncio.wait_for(log.append(entry), GIVE_BACK_TIMEOUT_S)
        except (TimeoutError, StoreError) as error:
            logger.error("run %s could not be given back: %s", log.key, error)
        finally:
            log.close()
