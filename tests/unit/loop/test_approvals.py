"""Calls that wait for a person: asked, approved, rejected, changed, used once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from loop_support import FakeClock, Log, Progress, Row, ScriptedModel, Signals, Worker, asks, says, work
from msgspec import structs

from runhold import Agent, RunContext, ask_person, tool
from runhold.agents import Approval, Effect
from runhold.loop.journal import Journal
from runhold.loop.ports import Entry, Result, Step, ToolCall, Usage
from runhold.testing.chaos.patience import eventually

sent: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    sent.clear()


def paying(approval: Approval = True, **options: Any) -> Agent:
    @tool(approval=approval, **options)
    async def pay(ctx: RunContext, to: str, amount: int) -> str:
        sent.append((to, amount))
        return f"paid {amount}"

    @tool(effect="read")
    async def find(query: str) -> str:
        sent.append((query, 0))
        return query

    return Agent(type="helper", model="m", instructions="i", tools=[pay, find, ask_person])


PAY = ("pay", {"to": "bo", "amount": 5})


async def test_the_run_waits_and_holds_nothing() -> None:
    row = Row()
    outcome = await work(row, paying(), ScriptedModel(asks(PAY)))
    assert outcome.kind == row.status == "awaiting_review"
    assert not sent
    assert row.call().status == "awaiting_review"
    assert row.summaries == ['pay(to="bo", amount=5)']
    assert len(row.entries) == 1, "step, call, question and pause are one entry"


async def test_approved_it_runs_once() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.decide("approved")
    model = ScriptedModel(says("Done."))
    await work(row, paying(), model)
    assert (row.status, sent) == ("completed", [("bo", 5)])
    assert model.last_messages[-1]["content"] == "paid 5"
    assert row.reviews[0].used


async def test_rejected_the_model_is_told_why() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.decide("rejected", comment="Too much.")
    model = ScriptedModel(says("Done."))
    await work(row, paying(), model)
    assert (row.status, sent) == ("completed", [])
    assert model.last_messages[-1]["content"] == "A reviewer rejected this call: Too much."


async def test_changed_arguments_are_what_runs_and_the_model_is_told() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.decide("approved", edit={"to": "al", "amount": 3})
    model = ScriptedModel(says("Done."))
    await work(row, paying(), model)
    assert sent == [("al", 3)]
    assert model.last_messages[-1]["content"] == (
        'A reviewer changed the arguments to {"amount":3,"to":"al"}\npaid 3'
    )


async def test_changed_arguments_that_do_not_fit_are_asked_again_twice() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    for again in (1, 2):
        row.decide("approved", edit={"to": "al", "amount": "much"})
        outcome = await work(row, paying(), ScriptedModel())
        assert outcome.kind == "awaiting_review"
        assert len(row.reviews) == 1 + again
        assert "do not fit" in row.summaries[-1]
        assert "amount" in row.summaries[-1]
    row.decide("approved", edit={"to": "al", "amount": "much"})
    model = ScriptedModel(says("Done."))
    await work(row, paying(), model)
    assert (row.status, row.call().status, sent) == ("completed", "failed", [])
    assert "Invalid arguments for pay: amount" in model.last_messages[-1]["content"]


async def test_changed_arguments_that_fit_the_second_time_run() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.decide("approved", edit={"to": "al", "amount": "much"})
    await work(row, paying(), ScriptedModel())
    row.decide("approved", edit={"to": "al", "amount": 4})
    await work(row, paying(), ScriptedModel(says("Done.")))
    assert sent == [("al", 4)]


async def test_what_needs_nobody_runs_first() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY, ("find", {"query": "x"}))))
    assert row.status == "awaiting_review"
    assert sent == [("x", 0)]
    assert row.call(1, 1).status == "succeeded"


async def test_all_questions_of_a_step_are_put_at_once_and_answered_in_any_order() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY, ("pay", {"to": "al", "amount": 6}))))
    row.decide("approved", index=1)
    assert row.status == "awaiting_review"
    row.decide("rejected")
    await work(row, paying(), ScriptedModel(says("Done.")))
    assert sent == [("al", 6)]


async def test_an_operator_gates_a_tool_without_a_deploy() -> None:
    row = Row(approval_tools=["pay"])
    await work(row, paying(approval=False), ScriptedModel(asks(PAY)))
    assert (row.status, sent) == ("awaiting_review", [])


async def test_an_operators_gate_holds_for_a_call_that_is_to_be_repeated() -> None:
    row = Row()
    worker = Worker(row, paying(approval=False, effect="idempotent"), ScriptedModel(asks(PAY)))
    worker.signals.lease_ok = False
    worker.start()
    await eventually(lambda: (1, 0) in row.calls)
    await worker.crash()
    row.approval_tools = ["pay"]
    await work(row, paying(approval=False, effect="idempotent"), ScriptedModel())
    assert (row.status, row.call().status, sent) == ("awaiting_review", "awaiting_review", [])
    row.decide("approved")
    await work(row, paying(approval=False, effect="idempotent"), ScriptedModel(says("Done.")))
    assert sent == [("bo", 5)]


def called(tool: str, position: int, effect: Effect) -> ToolCall:
    return ToolCall(
        step_number=1,
        position=position,
        call_id=f"c{position}",
        tool_name=tool,
        input={},
        effect=effect,
        status="running",
    )


def decided(number: int) -> Step:
    usage = Usage(input_tokens=1, output_tokens=1)
    return Step(step_number=number, definition_id=UUID(int=1), message={"role": "assistant"}, usage=usage)


async def test_a_gate_that_the_worker_has_not_heard_of_holds() -> None:
    """The database puts the call to a person; what it says of the others stands."""
    row = Row()
    agent = paying(approval=False)
    model = ScriptedModel(asks(PAY, ("find", {"query": "x"}), ("pay", {"to": "al", "amount": 6})))
    worker = Worker(row, agent, model, progress=(progress := Progress()))
    row.approval_tools = ["pay"]
    outcome = await worker.go()
    assert outcome.kind == row.status == "awaiting_review"
    assert sent == [("x", 0)], "the read ran"
    assert [call.status for call in row.calls.values()] == ["awaiting_review", "succeeded", "awaiting_review"]
    told = [payload["status"] for event, payload in progress.events if event == "tool"]
    assert sorted(told) == ["awaiting_review", "awaiting_review", "running", "succeeded"]
    row.decide("approved")
    row.decide("approved")
    await work(row, agent, ScriptedModel(says("Done.")))
    assert sorted(sent) == [("al", 6), ("bo", 5), ("x", 0)]


async def test_what_was_written_after_a_gated_call_is_not_forgotten() -> None:
    """The database's answer about the call is older than the result of the read beside it."""
    row = Row()
    run = row.claim()
    log = Log(row, run.fence)
    journal = Journal(run, log, Signals(row), FakeClock())
    row.approval_tools = ["pay"]
    log.hold = True
    calls = [called("pay", 0, "unsafe"), called("find", 1, "read")]
    journal.append(Entry(step=decided(1), calls=calls))
    journal.append(Entry(results=[Result(step_number=1, position=1, status="succeeded", output="x")]))
    log.release()
    await journal.confirm_steps()
    assert [call.status for call in journal.calls] == ["awaiting_review", "succeeded"]
    assert [review.status for review in journal.reviews_of(calls[0])] == ["pending"]
    journal.close()


async def test_a_run_follows_what_its_worker_hears() -> None:
    row = Row()
    worker = Worker(row, paying(approval=False), ScriptedModel(asks(("find", {"query": "x"}))))
    worker.signals.approval_tools = ["find"]
    assert (await worker.go()).kind == "awaiting_review"
    assert sent == [], "not even a read"
    assert row.summaries == ['find(query="x")'], "the loop itself asked"


async def test_a_gate_that_was_opened_again_is_followed_too() -> None:
    row = Row(approval_tools=["pay"])
    worker = Worker(row, paying(approval=False), ScriptedModel(asks(PAY), says("Done.")))
    row.approval_tools = worker.signals.approval_tools = []
    assert (await worker.go()).kind == "completed"
    assert sent == [("bo", 5)]


async def test_a_gate_that_the_worker_has_not_heard_of_holds_for_stored_calls() -> None:
    row, agent = Row(), paying(approval=False, effect="idempotent")
    worker = Worker(row, agent, ScriptedModel(asks(PAY)))
    worker.signals.lease_ok = False
    worker.start()
    await eventually(lambda: (1, 0) in row.calls)
    await worker.crash()
    worker = Worker(row, agent, ScriptedModel())
    row.approval_tools = ["pay"]
    assert (await worker.go()).kind == "awaiting_review"
    assert (sent, row.summaries) == ([], ["SQL asks about pay"])
    row.decide("approved")
    await work(row, agent, ScriptedModel(says("Done.")))
    assert sent == [("bo", 5)]


async def over_four(ctx: RunContext, args: Any) -> bool:
    return args.amount > 4


def broken(ctx: RunContext, args: Any) -> bool:
    raise KeyError("no such limit")


def leaving(ctx: RunContext, args: Any) -> bool:
    raise SystemExit(1)


async def cancelling_itself(ctx: RunContext, args: Any) -> bool:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("approval", "amount", "waits"),
    [
        (over_four, 4, False),
        (over_four, 5, True),
        (lambda ctx, args: args.amount > 4, 4, False),
        (lambda ctx, args: args.amount > 4, 5, True),
        (broken, 1, True),
        (leaving, 1, True),
        (cancelling_itself, 1, True),
    ],
)
async def test_a_function_decides_and_fails_closed(approval: Any, amount: int, waits: bool) -> None:
    row = Row()
    model = ScriptedModel(asks(("pay", {"to": "bo", "amount": amount})), says("Done."))
    outcome = await work(row, paying(approval=approval), model)
    assert outcome.kind == ("awaiting_review" if waits else "completed")


async def test_invalid_arguments_never_reach_a_person() -> None:
    row = Row()
    model = ScriptedModel(asks(("pay", {"to": "bo"})), says("Done."))
    await work(row, paying(), model)
    assert (row.status, row.reviews) == ("completed", [])
    assert "amount: Field required" in model.last_messages[-1]["content"]


async def test_a_decision_in_the_same_instant_keeps_the_slot() -> None:
    row = Row()

    class Quick(Row):
        pass

    worker = Worker(row, paying(), ScriptedModel(asks(PAY), says("Done.")))
    apply = row.apply

    def decided_meanwhile(entry: Any, fence: int) -> Any:
        if entry.transition is not None and entry.transition.to == "awaiting_review":
            apply(structs.replace(entry, transition=None), fence)
            row.decide("approved")
            entry = structs.replace(entry, step=None, calls=(), reviews=())
        return apply(entry, fence)

    row.apply = decided_meanwhile  # pyright: ignore
    outcome = await worker.go()
    assert (outcome.kind, sent) == ("completed", [("bo", 5)])
    assert row.fence == 1


async def test_a_question_is_answered_by_a_person() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(("ask_person", {"question": "Which  one?"}))))
    assert row.status == "awaiting_review"
    assert (row.reviews[0].kind, row.summaries) == ("question", ["Which one?"])
    row.decide("approved", answer={"text": "The blue one."})
    model = ScriptedModel(says("Done."))
    await work(row, paying(), model)
    assert model.last_messages[-1]["content"] == '{"text":"The blue one."}'


async def test_a_summary_is_cut() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(("pay", {"to": "x" * 900, "amount": 1}))))
    assert len(row.summaries[0]) <= 200


async def test_a_review_that_nobody_can_decide_does_not_spin_for_ever() -> None:
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.reviews.clear()
    row.status = "pending"
    await work(row, paying(), ScriptedModel())
    assert row.error == "INTERNAL_ERROR"


@pytest.mark.parametrize("obstacle", ["lease", "time"])
async def test_an_approval_is_not_used_while_nothing_may_start(
    obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runhold.loop.calls.LEASE_WAIT_S", 0.05)
    row = Row()
    await work(row, paying(), ScriptedModel(asks(PAY)))
    row.decide("approved")
    row.active_ms = 300_000 if obstacle == "time" else 0
    worker = Worker(row, paying(), ScriptedModel())
    worker.signals.lease_ok = obstacle == "time"
    outcome = await worker.go()
    assert outcome.code == ("TOTAL_TIMEOUT" if obstacle == "time" else "lease_ending")
    assert not sent
    assert not row.reviews[0].used
