"""What must hold of runs, told as simply as it can be: no locks, no SQL, and time is a number.

The model takes the same operations as the database, in the same order, and says what each must answer and leave
behind. It also counts what the database can't: how often an effect was let loose in the world, and by whose leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

LEASE_S = 30.0
REVIEW_TTL_S = 3600.0
MAX_ATTEMPTS = 3
FINAL = ("completed", "failed", "cancelled")
INTENTS = ("pending", "awaiting_review", "running")
ENDED_CALL = ("succeeded", "failed", "rejected")

Entry = dict[str, Any]
Verdict = Literal["ok", "stop", "continue", "fenced", "gap"]
Place = tuple[int, int]
"""Step number and position of a call."""


@dataclass(eq=False)
class Question:
    """One review. ``usable``: an approval that no start has used up yet."""

    kind: str
    call: Call
    asked_input: Entry
    expires: float | None
    needed: int = 1
    open: bool = True
    escalated: bool = False
    stop: bool = False
    usable: bool = False
    edited_input: Entry | None = None
    approved_by: set[str] = field(default_factory=set)
    id: str = ""  # as soon as the machine has seen its row


@dataclass(eq=False)
class Call:
    """One tool call. ``leave``: how often it may still be let loose by what was decided so far. ``cut_off``: what it was doing
    when the run's end ended it."""

    place: Place
    effect: str
    status: str
    input: Entry
    leave: int = 1
    loose: int = 0
    cut_off: str | None = None
    questions: list[Question] = field(default_factory=list)

    def let_loose(self) -> None:
        """A worker was told to run it. An unsafe one needs leave each time; the others may repeat themselves."""
        self.loose += 1
        if self.effect == "unsafe":
            self.leave -= 1
            assert self.leave >= 0, f"call {self.place} was let loose {self.loose} times without leave"

    @property
    def answered_stop(self) -> bool:
        asked = [q for q in self.questions if q.kind == "unknown_outcome"]
        return bool(asked) and asked[-1].stop

    @property
    def is_unsure(self) -> bool:
        lost = self.status == "running" and self.effect == "unsafe"
        return lost or (self.status == "unknown" and not self.answered_stop)


@dataclass(eq=False)
class Run:
    """One execution."""

    id: str
    owner: str
    limits: dict[str, int]
    status: str = "pending"
    fence: int = 0
    worker: str | None = None
    claim_seq: int = 0
    recorded: int = 0
    attempt: int = 0
    steps: int = 0
    wake: float | None = None
    cancel: bool = False
    error: str | None = None
    ended: float = 0.0
    changes: int = 0
    reserved: int = 0
    unread: set[str] = field(default_factory=set)
    mixed_end: bool = False  # expired in an order that nobody can know: what a retry takes up, neither
    calls: dict[Place, Call] = field(default_factory=dict)

    @property
    def questions(self) -> list[Question]:
        return [q for call in self.calls.values() for q in call.questions]

    @property
    def open_questions(self) -> list[Question]:
        return [q for q in self.questions if q.open]

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def passes_limit(self, body: Entry, operator: dict[str, int]) -> bool:
        steps = self.steps + len(body.get("steps", ()))
        calls = len(self.calls) + len(body.get("calls", ()))
        max_steps = min(limits.get("max_steps", 1000) for limits in (self.limits, operator))
        return steps > max_steps or calls > self.limits.get("max_tool_calls", 1000)


@dataclass(eq=False)
class Budget:
    """Tokens for all runs together."""

    cap: int
    used: int = 0


@dataclass(eq=False)
class WorkerRow:
    """A worker as the database knows it."""

    id: str
    lease_until: float
    claim_seq: int = 0
    draining: bool = False
    dead: bool = False


class Model:
    """All runs and workers of one small world, which spend from one budget of tokens, if there is one."""

    def __init__(self, *, on_expiry: str = "reject", approvals_needed: int = 1) -> None:
        self.budget: Budget | None = None
        self.reserved: Entry | None = None  # the answer to the last entry that asked for tokens
        self.now = 0.0
        self.operator_limits: dict[str, int] = {}
        self.on_expiry = on_expiry
        self.approvals_needed = approvals_needed
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, WorkerRow] = {}
        self._last_beat = self._beating_since = self._last_sweep = self._sweeping_since = 0.0

    # ------------------------------------------------------------------------------------------- states

    def change(self, run: Run, to: str, error: str | None = None) -> None:
        assert run.status not in ("completed", "cancelled"), f"{run.status} is the end"
        run.status, run.error = to, error
        run.changes += 1
        if to != "running":
            run.worker = None
        if run.is_final:
            run.ended = self.now

    def leave(self, run: Run) -> None:
        """The run left its worker: nothing of it runs any more, and what is unknown is asked about."""
        for call in run.calls.values():
            if call.status == "running" and call.effect == "unsafe":
                call.status = "unknown"
            elif call.status == "running" and run.is_final:
                call.status, call.cut_off = "failed", "running"
            elif call.status == "running":
                call.status = "pending"
            if call.status == "unknown" and run.status == "awaiting_review" and not call.answered_stop:
                self.ask(call, "unknown_outcome")
        self.close(run)

    def close(self, run: Run) -> None:
        """An ended run has no open question and no open call."""
        if run.is_final:
            for question in run.open_questions:
                question.open = False
            for call in run.calls.values():
                if call.status == "awaiting_review":
                    call.status, call.cut_off = "rejected", "awaiting_review"
                elif call.status == "pending":
                    call.status, call.cut_off = "failed", "pending"

    def ask(self, call: Call, kind: str) -> None:
        if any(q.open for q in call.questions):
            return
        if kind != "unknown_outcome":
            call.leave = 0
            if call.status in ("pending", "running"):
                call.status = "awaiting_review"
        needed = self.approvals_needed if kind == "approval" else 1
        call.questions.append(Question(kind, call, call.input, self.now + REVIEW_TTL_S, needed))

    def resume(self, run: Run) -> None:
        if run.status == "awaiting_review" and not run.open_questions:
            self.change(run, "pending")
            run.attempt, run.wake = 0, None

    def requeue(self, runs: Iterable[Run], *, counted: bool) -> int:
        """Runs whose worker will not finish them."""
        gone = list(runs)
        for run in gone:
            self.settle(run, charged=True)
            if run.cancel:
                self.change(run, "cancelled")
            elif any(c.status == "unknown" and c.answered_stop for c in run.calls.values()):
                self.change(run, "failed", "STOPPED_BY_REVIEWER")
            elif any(c.is_unsure for c in run.calls.values()):
                self.change(run, "awaiting_review")
            elif counted and run.attempt >= MAX_ATTEMPTS:
                self.change(run, "failed", "WORKER_LOST")
            else:
                self.change(run, "pending")
            if not counted:
                run.attempt = max(0, run.attempt - 1)
            self.leave(run)
        return len(gone)

    # ------------------------------------------------------------------------------------------ workers

    def held(self, worker: str) -> list[Run]:
        return [r for r in self.runs.values() if r.worker == worker]

    def register(self, worker: str) -> None:
        self.workers[worker] = WorkerRow(worker, self.now + LEASE_S)
        self._beat()

    def _beat(self) -> None:
        if self.now - self._last_beat > LEASE_S:
            self._beating_since = self.now
        self._last_beat = self.now

    def claimable(self) -> list[Run]:
        return [
            r for r in self.runs.values() if r.status == "pending" and (r.wake is None or r.wake <= self.now)
        ]

    def claim(self, worker: str, seq: int, ids: Sequence[str], n: int) -> None:
        """The database gave ``worker`` the runs ``ids``, in this order: was that right?"""
        row = self.workers[worker]
        if seq <= row.claim_seq:
            assert set(ids) == {r.id for r in self.held(worker) if r.claim_seq == seq}
        elif row.draining or row.lease_until <= self.now:
            assert not ids
        else:
            row.claim_seq = seq
            right = {r.id for r in self.claimable()}
            assert set(ids) <= right
            assert len(ids) == min(n, len(right)), "a claimable run was left behind"
            for run in (self.runs[i] for i in ids):
                self.change(run, "running")
                run.worker, run.claim_seq, run.recorded = worker, seq, 0
                run.fence += 1
                run.attempt += 1
                run.wake = None

    def heartbeat(self, worker: str, held: Sequence[str], last_seq: int) -> None:
        self.workers[worker].lease_until = self.now + LEASE_S
        self._beat()
        forgotten = [r for r in self.held(worker) if r.id not in held and r.claim_seq <= last_seq]
        self.requeue(forgotten, counted=True)

    def release(self, worker: str, ids: Sequence[str]) -> int:
        return self.requeue((r for r in self.held(worker) if r.id in ids), counted=False)

    def stop(self, worker: str, *, draining: bool) -> int:
        self.workers[worker].draining = True
        if draining:
            return 0
        self.workers[worker].dead = True
        return self.requeue(self.held(worker), counted=False)

    # ------------------------------------------------------------------------------------------- record

    def record(self, worker: str, entry: Entry) -> tuple[Verdict, list[bool]]:
        """What ``agent_worker_record`` must answer to an entry: the verdict, and which starts were granted."""
        run = self.runs.get(entry["execution"])
        self.reserved = None
        if run is None or entry["fence"] != run.fence:
            return "fenced", []
        if entry["seq"] <= run.recorded:
            return self._again(run, worker, entry), []
        if entry["seq"] > run.recorded + 1:
            return "gap", []
        if run.status == "running" and run.worker == worker:
            verdict, granted = self._apply(run, entry)
            self._spend(run, entry, verdict)
            return verdict, granted
        if not run.is_final:
            return "fenced", []
        # late: what happened is kept, and changes nothing about the end
        run.recorded = entry["seq"]
        self._keep(run, entry)
        self._results(run, entry, late=True)
        return self._too_late(run, entry), []

    @staticmethod
    def _too_late(run: Run, entry: Entry) -> Verdict:
        """The run left its worker: what happened is kept, but nothing may start any more."""
        intends = any(c["status"] in INTENTS for c in entry.get("calls", ()))
        if entry.get("transition") or not (intends or entry.get("reviews") or entry.get("starts")):
            return "ok"
        return "stop" if run.is_final else "fenced"

    def settle(self, run: Run, *, charged: bool) -> None:
        """What the run had set aside is given back, or used up."""
        if self.budget is not None and charged:
            self.budget.used += run.reserved
        run.reserved = 0

    def _spend(self, run: Run, body: Entry, verdict: Verdict) -> None:
        """A step costs what it did; a call that was never answered what was set aside for it."""
        steps = body.get("steps", ())
        leaves = verdict == "ok" and "transition" in body
        asks = verdict == "ok" and "reserve" in body
        if self.budget is not None:
            self.budget.used += sum(raw["input_tokens"] for raw in steps)
        if steps or leaves or asks or body.get("charge"):
            self.settle(run, charged=bool(body.get("charge") and not steps))
        if asks and not leaves:
            self.reserved = self._reserve(run, **body["reserve"])

    def _reserve(self, run: Run, min_tokens: int, max_tokens: int) -> Entry:
        if self.budget is None:
            return {"granted": True, "tokens": max_tokens}
        held = sum(r.reserved for r in self.runs.values())
        unspent = self.budget.cap - self.budget.used
        if unspent - held >= max_tokens:
            run.reserved = max_tokens
        elif unspent >= min_tokens and not held:
            run.reserved = unspent
        else:
            return {"granted": False, "then": "wait" if unspent >= min_tokens else "fail"}
        return {"granted": True, "tokens": run.reserved}

    def _again(self, run: Run, worker: str, entry: Entry) -> Verdict:
        """The answer to this very entry was lost: intents that are not there are not there now."""
        if "reserve" in entry:
            self.reserved = {"granted": False, "then": "wait"}
            if run.reserved or self.budget is None:
                self.reserved = {"granted": True, "tokens": run.reserved or entry["reserve"]["max_tokens"]}
        if run.worker != worker:
            return self._too_late(run, entry)
        if entry["seq"] != run.recorded:
            return "ok"
        if any((c["step_number"], c["position"]) not in run.calls for c in entry.get("calls", ())):
            return "stop"
        meant = [c for c in entry.get("calls", ()) if c["status"] in ("pending", "running")]
        waits = any(
            call.status in ("awaiting_review", "rejected")
            and any(q.kind == "approval" for q in call.questions)
            for call in (
                run.calls[i["step_number"], i["position"]] for i in (*meant, *entry.get("starts", ()))
            )
        )
        return "continue" if entry.get("transition") or waits else "ok"

    def _keep(self, run: Run, body: Entry) -> None:
        """The part of an entry that tells what happened, but for results."""
        run.steps += len(body.get("steps", ()))
        for raw in body.get("steps", ()):
            run.unread -= set(raw.get("delivered", ()))
        for raw in body.get("calls", ()):
            if raw["status"] not in INTENTS:
                self._store_call(run, raw)

    def _apply(self, run: Run, body: Entry) -> tuple[Verdict, list[bool]]:
        to = body.get("transition", {}).get("to")
        intends = any(c["status"] in INTENTS for c in body.get("calls", ()))
        intends = intends or bool(body.get("starts") or body.get("reviews"))
        stop = (intends or to == "awaiting_review") and (
            run.cancel or run.passes_limit(body, self.operator_limits)
        )

        run.recorded = body["seq"]
        run.attempt = 1 if body.get("steps") else run.attempt
        self._keep(run, body)
        if not stop:
            for raw in body.get("calls", ()):
                if raw["status"] in INTENTS:
                    self._store_call(run, raw)
        self._results(run, body)
        if stop:
            return "stop", []
        for raw in body.get("reviews", ()):
            self.ask(run.calls[raw["step_number"], raw["position"]], raw["kind"])
        if any(r["status"] == "unknown" for r in (*body.get("results", ()), *body.get("calls", ()))):
            for call in run.calls.values():
                if call.status == "unknown" and not call.answered_stop:
                    self.ask(call, "unknown_outcome")
        started = [run.calls[s["step_number"], s["position"]] for s in body.get("starts", ())]
        gated = [call.status == "awaiting_review" for call in started]
        granted = [self._start(call) for call in started]
        if to is None and any(g and not taken for g, taken in zip(gated, granted, strict=True)):
            return "continue", granted  # it waits for a person, and its worker must know
        unheard = to == "completed" and run.unread and not run.cancel and not body["transition"].get("final")
        if unheard or (to == "awaiting_review" and not run.open_questions):
            return "continue", granted
        if to is not None:
            self._leave_by_record(run, to, body["transition"])
        return "ok", granted

    def _store_call(self, run: Run, raw: Entry) -> None:
        place = (raw["step_number"], raw["position"])
        call = run.calls[place] = Call(place, raw["effect"], raw["status"], raw["input"])
        if raw["status"] == "awaiting_review":
            call.leave = 0
        elif raw["status"] == "running":
            call.let_loose()

    def _results(self, run: Run, body: Entry, *, late: bool = False) -> None:
        for raw in body.get("results", ()):
            call = run.calls.get((raw["step_number"], raw["position"]))
            if call is None:
                continue
            if call.status in ("pending", "running") or (
                late and (call.status == "unknown" or call.cut_off in ("pending", "running"))
            ):
                call.status, call.cut_off = raw["status"], None

    def _start(self, call: Call) -> bool:
        if call.status == "awaiting_review":
            usable = [q for q in call.questions if q.usable]
            if not usable or any(q.open for q in call.questions):
                return False
            approval = usable[-1]
            assert approval.asked_input == call.input, "what was approved is not what would run"
            approval.usable = False
            call.input = approval.edited_input or call.input
        elif call.status != "pending":
            return False
        call.status = "running"
        call.let_loose()
        return True

    def _leave_by_record(self, run: Run, to: str, transition: Entry) -> None:
        if run.cancel and to in ("completed", "failed", "pending"):
            to = "cancelled"
        elif to == "pending":
            if any(c.is_unsure for c in run.calls.values()):
                to = "awaiting_review"
            else:
                delay_s = transition.get("delay_ms", 0) / 1000
                run.wake = self.now + delay_s if delay_s else None
                run.attempt = max(0, run.attempt - 1)
        self.change(run, to, transition.get("error") if to == "failed" else None)
        self.leave(run)

    # ------------------------------------------------------------------------------------------- people

    def cancel(self, run: Run) -> None:
        if run.status == "running":
            run.cancel = True
        elif run.status in ("pending", "awaiting_review"):
            run.cancel = True
            self.change(run, "cancelled")
            self.close(run)

    def approve(self, run: Run, question: Question, who: str, edited_input: Entry | None = None) -> None:
        question.approved_by.add(who)
        question.edited_input = edited_input
        if len(question.approved_by) == question.needed:
            question.open, question.usable = False, True
            question.call.leave = 1
            self.resume(run)

    def reject(self, run: Run, question: Question) -> None:
        question.open = False
        if question.call.status == "awaiting_review":
            question.call.status = "rejected"
        self.resume(run)

    def answer(self, run: Run, question: Question) -> None:
        """A person answered the model's question, or said that the call happened."""
        question.open = False
        question.call.status = "succeeded"
        self.resume(run)

    def say_again(self, run: Run, question: Question) -> None:
        question.open, question.usable = False, True
        question.call.status, question.call.leave = "awaiting_review", 1
        self.resume(run)

    def say_stop(self, run: Run, question: Question) -> None:
        question.open, question.stop = False, True
        if run.status == "awaiting_review":
            self.change(run, "failed", "STOPPED_BY_REVIEWER")
            self.close(run)

    def retry(self, run: Run) -> None:
        """A failed run goes on where it ended: what its end cut off is taken up, what is unknown is asked about."""
        self.change(run, "pending")
        run.attempt, run.wake = 0, None
        for call in run.calls.values():
            if call.cut_off is not None:
                call.status = "awaiting_review" if call.cut_off == "awaiting_review" else "pending"
                call.cut_off = None
            if call.status == "awaiting_review" and not (call.questions and call.questions[-1].usable):
                self.ask(call, call.questions[-1].kind)
            elif call.status == "unknown":
                self.ask(call, "unknown_outcome")

    def can_fork(self, run: Run, from_step: int) -> bool:
        copied = [c for c in run.calls.values() if c.place[0] < from_step]
        return all(c.status in ENDED_CALL and c.cut_off is None for c in copied)

    def fork(self, run: Run, from_step: int, fork_id: str) -> None:
        calls = {
            place: Call(place, c.effect, c.status, c.input, leave=0)
            for place, c in run.calls.items()
            if place[0] < from_step
        }
        self.runs[fork_id] = Run(fork_id, run.owner, run.limits, steps=from_step - 1, calls=calls)

    # ------------------------------------------------------------------------------------ sweep and time

    def _silence_is_death(self) -> bool:
        beat, since = self.now - self._last_beat, self.now - self._beating_since
        return (beat <= LEASE_S <= since) or min(beat, self.now - self._sweeping_since) >= 5 * LEASE_S

    def sweep(self) -> Entry:
        if self.now - self._last_sweep > 2 * LEASE_S:
            self._sweeping_since = self.now
        self._last_sweep = self.now
        if self._silence_is_death():
            for row in self.workers.values():
                row.dead = row.dead or row.lease_until < self.now
        requeued = sum(
            self.requeue(self.held(row.id), counted=True) for row in self.workers.values() if row.dead
        )
        return {"requeued": requeued, "expired": self._expire(), "repaired": 0}

    def _expire(self) -> int:
        expired = 0
        for run in [r for r in self.runs.values() if r.status == "awaiting_review"]:
            due = [q for q in run.open_questions if q.expires is not None and q.expires <= self.now]
            expired += len(due)
            fails = self.on_expiry == "fail" or any(q.kind == "unknown_outcome" for q in due)
            run.mixed_end = fails and len(due) > 1
            for question in due:
                if self.on_expiry == "escalate":
                    question.expires = None
                    question.escalated = True
                else:
                    question.open = False
                    if question.kind != "unknown_outcome":
                        question.call.status = "rejected"
                        question.call.cut_off = "awaiting_review" if self.on_expiry == "fail" else None
            if due and self.on_expiry != "escalate" and fails:
                self.change(run, "failed", "REVIEW_EXPIRED")
                self.close(run)
            self.resume(run)
        return expired

    def prune(self, older_than_s: float) -> int:
        old = [r.id for r in self.runs.values() if r.is_final and r.ended < self.now - older_than_s]
        for run_id in old:
            del self.runs[run_id]
        return len(old)
