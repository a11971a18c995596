"""Many actors at one database: hypothesis chooses who does what next, the model says what must come of it.

Users, strangers, reviewers, workers (with stale claims, lost answers and repeated entries), the sweep and time take turns over
real SQL functions. After every turn the rows equal the model, and the invariants hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from budget_world import budget
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from invariants import BROKEN, assert_everything_ends
from model import Budget, Call, Entry, Model, Question, Run
from world import DEFINITION, Row, Worker, World, call, question, refused, result, step

EPOCH = "2031-01-01T00:00:00Z"
AGENT = {
    **DEFINITION,
    "limits": {
        "max_steps": 1000,
        "max_tokens": 10_000_000,
        "max_tool_calls": 1000,
        "total_timeout_s": 10_000_000,
    },
}

RESERVE = {"min_tokens": 20, "max_tokens": 60}

Shape = tuple[str, str, str, str | None]
UNSAFE: Shape = ("send", "unsafe", "running", None)
GATED: Shape = ("send", "unsafe", "awaiting_review", "approval")
SHAPES: list[Shape] = [
    ("look", "read", "succeeded", None),
    ("look", "read", "failed", None),
    ("look", "read", "running", None),
    ("save", "idempotent", "pending", None),
    ("save", "idempotent", "running", None),
    ("save", "idempotent", "awaiting_review", "approval"),
    UNSAFE,
    UNSAFE,
    ("send", "unsafe", "pending", None),
    ("send", "unsafe", "unknown", None),
    GATED,
    GATED,
    ("ask_person", "read", "awaiting_review", "question"),
]
"""Calls as a step may bring them: tool, effect, first status, and what people are asked about it."""

ROWS = """
select x.id::text, x.status, x.worker_id::text as worker, x.fence, x.attempt, x.recorded_seq, x.step_count, x.error,
  x.cancel_requested_at is not null as cancel,
  (select coalesce(jsonb_object_agg(c.step_number || ':' || c.position, jsonb_build_array(c.status, c.cut_off, c.tool_input)), '{}')
   from agent_tool_calls c where c.execution_id = x.id) as calls,
  (select coalesce(jsonb_agg(jsonb_build_array(c.step_number || ':' || c.position, r.kind, r.id)), '[]')
   from agent_reviews r join agent_tool_calls c on c.id = r.tool_call_id
   where r.execution_id = x.id and r.status = 'pending') as open,
  (select count(*) from agent_events e where e.execution_id = x.id
   and e.kind in ('claimed', 'requeued', 'paused', 'resumed', 'retried', 'completed', 'failed', 'cancelled')) as changes
from agent_executions x
"""

SNAPSHOT = """
select jsonb_build_array(
  (select to_jsonb(x) from agent_executions x where x.id = %(id)s),
  (select jsonb_agg(c order by c.id) from agent_tool_calls c where c.execution_id = %(id)s),
  (select jsonb_agg(r order by r.id) from agent_reviews r where r.execution_id = %(id)s),
  (select count(*) from agent_steps s where s.execution_id = %(id)s),
  (select count(*) from agent_events e where e.execution_id = %(id)s)) as rows
"""

EMPTY = """
delete from auth.users;
delete from agent_workers;
delete from agent_budgets;
delete from agent_usage;
delete from realtime.messages;
update agent_types set review_on_expiry = 'reject', approvals_needed = 1, limits = null;
update runhold.liveness set last_beat_at = runhold.now(), beating_since = runhold.now(),
                            last_sweep_at = runhold.now(), sweeping_since = runhold.now();
"""

T = TypeVar("T")


@dataclass(eq=False)
class Belief:
    """A run as a worker process thinks that it holds it; it may be wrong."""

    run_id: str
    fence: int
    last: Row | None = None


@dataclass(eq=False)
class Hand:
    """A worker process: the database's row, and what the process believes."""

    worker: Worker
    beliefs: list[Belief] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.worker.id


class RunsMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.model = Model()
        self.hands: list[Hand] = []
        self.set_clock()
        world.sql(EMPTY)
        self.owners = [world.person(), world.person()]
        self.stranger = world.person()
        self.reviewers = [world.reviewer(), world.reviewer()]
        self.operator = world.reviewer(role="operator")

    def teardown(self) -> None:
        self.set_clock()
        assert_everything_ends(self.world, self.advance)

    # -------------------------------------------------------------------------------------------- time

    def set_clock(self) -> None:
        self.world.connection.execute(
            "select set_config('runhold.now', (%s::timestamptz + make_interval(secs => %s))::text, false)",
            (EPOCH, self.model.now),
        )

    def advance(self, seconds: float) -> None:
        self.model.now += seconds
        self.set_clock()

    @rule(seconds=st.sampled_from([1, 10, 20, 31, 100, 3601]))
    def time_passes(self, seconds: int) -> None:
        """Seconds of nothing: a heartbeat late by a little, by a lease, or by an evening."""
        self.advance(seconds)

    # --------------------------------------------------------------------------------------- beginnings

    @initialize(
        expiry=st.sampled_from(["reject", "fail", "escalate"]),
        needed=st.sampled_from([1, 1, 2]),
        cap=st.sampled_from([None, 150, 150, 1_000_000]),
        data=st.data(),
    )
    def begin(self, expiry: str, needed: int, cap: int | None, data: st.DataObject) -> None:
        self.start_worker()
        self.world.configure(review_on_expiry=expiry, approvals_needed=needed)
        self.model.on_expiry, self.model.approvals_needed = expiry, needed
        if cap is not None:
            budget(self.world, period="month", max_tokens=cap)
            self.model.budget = Budget(cap)
        stories = st.lists(
            st.sampled_from(["held", "gated", "paused", "unsafe", "lost"]), min_size=2, max_size=4
        )
        for story in [*data.draw(stories, "stories"), "queued"]:
            self.begin_with(story)

    def begin_with(self, story: str) -> None:
        """A run that is somewhere already, so that few turns lead far."""
        run = self.new_run(self.owners[0], {})
        if story == "queued":
            return
        hand = self.hands[0]
        (claimed,) = hand.worker.claim(1)
        self.model.claim(hand.id, hand.worker.claim_seq, [run.id], 1)
        hand.beliefs.append(Belief(run.id, claimed["fence"]))
        shape = {"gated": GATED, "paused": GATED, "unsafe": UNSAFE, "lost": UNSAFE}.get(story)
        if shape is not None:
            self.send(hand, hand.beliefs[-1], self.step_with(hand, run, [shape]))
        if story == "paused":
            self.send(hand, hand.beliefs[-1], {"transition": {"to": "awaiting_review"}})
        elif story == "lost":
            self.release(hand, [run.id])
        self.rows_equal_the_model()

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        owner = self.choose(data, self.owners, "owner")
        limits = data.draw(st.sampled_from([{}, {}, {"max_steps": 2}, {"max_tool_calls": 2}]), "limits")
        self.new_run(owner, limits)

    def new_run(self, owner: str, limits: dict[str, int]) -> Run:
        run_id = self.world.submit(owner, **({"limits": limits} if limits else {}))
        run = self.model.runs[run_id] = Run(run_id, owner, limits)
        return run

    @precondition(lambda self: len(self.living()) < 2)
    @rule()
    def start_worker(self) -> None:
        hand = Hand(self.world.worker(AGENT))
        self.hands.append(hand)
        self.model.register(hand.id)

    # ------------------------------------------------------------------------------------------ workers

    def choose(self, data: st.DataObject, items: Sequence[T], what: str) -> T:
        """One of ``items``, drawn by its number, so that an example reads the same whatever the ids are."""
        return items[data.draw(st.integers(0, len(items) - 1), what)]

    def some(self, data: st.DataObject, items: Sequence[T], what: str) -> list[T]:
        return [item for n, item in enumerate(items) if data.draw(st.booleans(), f"{what} {n}")]

    def living(self) -> list[Hand]:
        return [hand for hand in self.hands if not self.model.workers[hand.id].dead]

    def any_hand(self, data: st.DataObject) -> Hand:
        """Mostly one that lives."""
        odd = data.draw(st.integers(0, 7), "any worker if 7") == 7
        return self.choose(data, self.hands if odd else self.living() or self.hands, "worker")

    @contextlib.contextmanager
    def as_living(self, hand: Hand):
        """The dead are refused, whatever they ask; then nothing changed and the process drops all it held."""
        if self.model.workers[hand.id].dead:
            with refused("RH012"):
                yield False
            hand.beliefs.clear()
        else:
            yield True

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        hand = self.any_hand(data)
        n = data.draw(st.integers(1, 3), "n")
        lost = data.draw(st.integers(0, 4), "answer lost if 4") == 4
        repeated = data.draw(st.integers(0, 4), "repeated if 4") == 4 and hand.worker.claim_seq > 0
        with self.as_living(hand) as living:
            runs = hand.worker.claim(n, seq=hand.worker.claim_seq if repeated else None)
        if living:
            self.model.claim(hand.id, hand.worker.claim_seq, [run["id"] for run in runs], n)
            for run in runs:
                assert run["fence"] == self.model.runs[run["id"]].fence
                if not lost and not any(
                    b.run_id == run["id"] and b.fence == run["fence"] for b in hand.beliefs
                ):
                    hand.beliefs.append(Belief(run["id"], run["fence"]))

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        hand = self.any_hand(data)
        forgets = data.draw(st.integers(0, 3), "forgets one if 3") == 3
        held = [b.run_id for b in (hand.beliefs[1:] if forgets else hand.beliefs)]
        if self.beat(hand, held) and data.draw(st.booleans(), "drops what it lost"):
            hand.beliefs = [b for b in hand.beliefs if self.is_held(hand, b)]

    def beat(self, hand: Hand, held: list[str]) -> bool:
        with self.as_living(hand) as living:
            answer = hand.worker.heartbeat(held)
        if living:
            self.model.heartbeat(hand.id, held, hand.worker.claim_seq)
            mine = {run.id: run for run in self.model.held(hand.id)}
            assert set(answer["cancelled"]) == {run_id for run_id, run in mine.items() if run.cancel}
            assert set(answer["lost"]) == set(held) - set(mine)
        return living

    @rule(data=st.data())
    def a_worker_is_lost(self, data: st.DataObject) -> None:
        """Silent for a lease and a half while others beat; the process may live on and believe."""
        lost = self.any_hand(data)
        if len(self.living()) < 2:
            self.start_worker()
        for _ in range(3):
            self.advance(15)
            for hand in self.living():
                if hand is not lost:
                    self.beat(hand, [b.run_id for b in hand.beliefs])
        self.sweep()

    @rule()
    def sweep(self) -> None:
        self.advance(1)
        assert self.world.sweep().items() >= self.model.sweep().items()

    # ------------------------------------------------------------------------------------------- record

    def record(self, hand: Hand, entry: Row) -> None:
        """Send ``entry``; the verdict, what was granted and what stays untouched are as the model says."""
        run = self.model.runs.get(entry["execution"])
        known = run.recorded if run else 0
        verdict, granted = self.model.record(hand.id, entry)
        stale = verdict in ("fenced", "gap") or entry["seq"] <= known
        before = self.snapshot(entry["execution"]) if stale else None
        (answer,) = hand.worker.record_all([entry])
        assert answer["verdict"] == verdict, (answer, verdict)
        told = {k: v for k, v in (answer.get("reserved") or {}).items() if k in ("granted", "tokens", "then")}
        assert told == (self.model.reserved or {})
        if stale:
            assert self.snapshot(entry["execution"]) == before, "a stale entry changed something"
        if verdict == "stop":
            assert run is not None
            wanted = {"CANCELLED"} if run.cancel else {"MAX_STEPS_EXCEEDED", "MAX_TOOL_CALLS_EXCEEDED"}
            if run.is_final:
                wanted = {run.error or "CANCELLED"}
            assert answer["code"] in wanted
        if granted:
            assert run is not None
            assert [s["taken"] for s in answer["started"]] == granted
            for started in answer["started"]:
                if started["taken"]:
                    assert started["input"] == run.calls[started["step_number"], started["position"]].input

    def snapshot(self, run_id: str) -> Any:
        return self.ask(SNAPSHOT, {"id": run_id})[0]["rows"]

    def ask(self, query: str, values: Row | None = None) -> list[Row]:
        """As the owner, in one round trip: this is asked after every turn."""
        return self.world.connection.execute(query, values).fetchall()

    def believing(self, data: st.DataObject) -> tuple[Hand, Belief, Run | None]:
        """A process and a run that it thinks it holds: mostly it does."""
        everything = [(h, b) for h in self.hands for b in h.beliefs]
        odd = data.draw(st.integers(0, 5), "whoever if 5") == 5
        true = [(h, b) for h, b in everything if self.is_held(h, b)]
        hand, belief = self.choose(data, everything if odd else true or everything, "who records")
        return hand, belief, self.model.runs.get(belief.run_id)

    def holds_anything(self) -> bool:
        return any(hand.beliefs for hand in self.hands)

    def is_held(self, hand: Hand, belief: Belief) -> bool:
        run = self.model.runs.get(belief.run_id)
        return run is not None and (run.worker, run.fence) == (hand.id, belief.fence)

    def send(self, hand: Hand, belief: Belief, body: Entry) -> None:
        belief.last = hand.worker.entry({"id": belief.run_id, "fence": belief.fence}, **body)
        self.advance(1)
        self.record(hand, belief.last)

    def new_step(self, data: st.DataObject, hand: Hand, run: Run) -> Entry:
        shapes = [self.choose(data, SHAPES, "call") for _ in range(data.draw(st.integers(0, 3), "calls"))]
        return self.step_with(hand, run, shapes)

    def step_with(self, hand: Hand, run: Run, shapes: Sequence[Shape]) -> Entry:
        number = run.steps + 1
        return {
            "steps": [
                step(number, hand.worker.definition, tokens=7, cost_usd=0.001, delivered=sorted(run.unread))
            ],
            **({"reserve": RESERVE} if number % 3 else {}),
            "calls": [
                call(number, n, tool, effect, status) for n, (tool, effect, status, _) in enumerate(shapes)
            ],
            "reviews": [question(number, n, kind) for n, (_, _, _, kind) in enumerate(shapes) if kind],
        }

    def results_of(self, data: st.DataObject, calls: Sequence[Call]) -> list[Row]:
        ends = st.sampled_from(["succeeded", "succeeded", "failed", "unknown"])
        return [result(*c.place, data.draw(ends, "outcome")) for c in self.some(data, calls, "result")]

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data(), charge=st.sampled_from([{}, {}, {"charge": True}]))
    def ask_for_tokens(self, data: st.DataObject, charge: Entry) -> None:
        """Before the first call of a claim, or after one that was never answered."""
        hand, belief, _ = self.believing(data)
        self.send(hand, belief, {"reserve": RESERVE, **charge})

    def ending(self, data: st.DataObject, run: Run) -> Entry:
        ways = ["awaiting_review", "awaiting_review", "completed", "failed", "pending"]
        to = data.draw(st.sampled_from(ways + ["cancelled"] * 2 * run.cancel), "to")
        more: dict[str, Entry] = {
            "completed": {"result": {"n": 1}},
            "failed": {"error": "TOOL_FAILED"},
            "pending": {
                "reason": "model_outage",
                "delay_ms": data.draw(st.sampled_from([0, 40_000]), "delay"),
            },
        }
        return {"to": to, **more.get(to, {})}

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data(), leaves=st.sampled_from([False, False, False, True]))
    def think(self, data: st.DataObject, leaves: bool) -> None:
        """The results of the last step, maybe, with the next one and its intents, and maybe the pause or the end at once."""
        hand, belief, run = self.believing(data)
        if run is None:
            self.send(hand, belief, {"steps": [step(1, hand.worker.definition)]})
            return
        body = self.new_step(data, hand, run)
        body["results"] = self.results_of(data, [c for c in run.calls.values() if c.status == "running"])
        if leaves:
            body["transition"] = self.ending(data, run)
        self.send(hand, belief, body)

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Results come in, calls are started or taken, a person is asked once more."""
        hand, belief, run = self.believing(data)
        calls = list(run.calls.values()) if run else []
        done = self.results_of(data, [c for c in calls if c.status in ("pending", "running")])
        places = [(r["step_number"], r["position"]) for r in done]
        left = [c for c in calls if c.status in ("pending", "awaiting_review") and c.place not in places]
        body: Entry = {"results": done}
        if data.draw(st.integers(0, 5), "asks anew if 5") == 5:
            body["reviews"] = [question(*c.place) for c in left[:1]]
        if data.draw(st.integers(0, 3), "starts nothing if 3") < 3:
            body["starts"] = [{"step_number": c.place[0], "position": c.place[1]} for c in left]
        self.send(hand, belief, body)

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data())
    def work_on(self, data: st.DataObject) -> None:
        """The same once more: rules are drawn alike, and this is what workers do most."""
        self.work(data)

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data())
    def think_on(self, data: st.DataObject) -> None:
        self.think(data, leaves=False)

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        hand, belief, run = self.believing(data)
        if run is not None:
            done = self.results_of(data, [c for c in run.calls.values() if c.status == "running"])
            charge = {"charge": True} if data.draw(st.booleans(), "charge") else {}
            self.send(hand, belief, {"results": done, "transition": self.ending(data, run), **charge})

    @precondition(lambda self: self.holds_anything())
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        hand, belief, _ = self.believing(data)
        self.send(hand, belief, {"transition": {"to": "awaiting_review"}})

    @precondition(lambda self: any(b.last for h in self.hands for b in h.beliefs))
    @rule(data=st.data(), ahead=st.sampled_from([0, 0, 0, 2]))
    def repeat(self, data: st.DataObject, ahead: int) -> None:
        """The answer was lost, or is so late that the world has moved on; or (2) an entry before it never came."""
        hand, entry = self.choose(
            data, [(h, b.last) for h in self.hands for b in h.beliefs if b.last], "repeats"
        )
        self.record(hand, {**entry, "seq": entry["seq"] + ahead})

    # ------------------------------------------------------------------------------------------- people

    @precondition(lambda self: any(r.questions for r in self.model.runs.values()))
    @rule(data=st.data())
    def reviewer_decides(self, data: st.DataObject) -> None:
        self.decide(data, "reviewer")

    @precondition(lambda self: any(r.questions for r in self.model.runs.values()))
    @rule(data=st.data(), who=st.sampled_from(["reviewer", "owner", "stranger", "service"]))
    def decide(self, data: st.DataObject, who: Literal["reviewer", "owner", "stranger", "service"]) -> None:
        asked = [(r, q) for r in self.model.runs.values() for q in r.questions if q.id]
        asked = [(r, q) for r, q in asked if q.open] or asked
        if not asked:
            return
        run, about = self.choose(data, asked, "review")
        columns, apply = self.choose(data, self.answers(run, about), "answer")
        self.advance(1)
        if who == "service":
            with refused("42501"), self.world.acting("service_role") as cursor:
                cursor.execute("update agent_reviews set status = 'approved' where id = %s", (about.id,))
        elif who == "stranger":
            assert self.world.decide(self.stranger, about.id, **columns) == []
        elif not about.open:
            with refused("RH007"):
                self.world.decide(self.reviewers[0], about.id, **columns)
        elif about.expires is not None and about.expires <= self.model.now:
            with refused("RH008"):
                self.world.decide(self.reviewers[0], about.id, **columns)
        elif who == "owner":
            with refused("RH009"):
                self.world.decide(run.owner, about.id, **columns)
        else:
            reviewer = self.choose(data, self.reviewers, "reviewer")
            if about.escalated:
                with refused("RH021"):
                    self.world.decide(reviewer, about.id, **columns)
                reviewer = self.operator
            if columns["status"] == "approved" and reviewer in about.approved_by:
                with refused("RH007", says="You have already approved this."):
                    self.world.decide(reviewer, about.id, **columns)
            else:
                self.world.decide(reviewer, about.id, **columns)
                apply(reviewer)

    def answers(self, run: Run, about: Question) -> list[tuple[dict[str, Any], Any]]:
        """What a person may say to a question, and what the model makes of it."""
        model = self.model
        if about.kind == "question":
            return [
                ({"status": "approved", "answer": {"text": "Yes."}}, lambda _: model.answer(run, about)),
                ({"status": "rejected"}, lambda _: model.reject(run, about)),
            ]
        if about.kind == "unknown_outcome":
            return [
                (
                    {"status": "approved", "answer": {"outcome": "happened"}},
                    lambda _: model.answer(run, about),
                ),
                (
                    {"status": "approved", "answer": {"outcome": "again"}},
                    lambda _: model.say_again(run, about),
                ),
                ({"status": "rejected"}, lambda _: model.say_stop(run, about)),
            ]
        ways: list[tuple[dict[str, Any], Any]] = [
            ({"status": "approved"}, lambda who: model.approve(run, about, who)),
            ({"status": "approved"}, lambda who: model.approve(run, about, who)),
            ({"status": "rejected", "comment": "No."}, lambda _: model.reject(run, about)),
        ]
        if about.needed == 1:
            edit = {"n": 99, "edited": len(about.id)}
            ways.append(
                (
                    {"status": "approved", "edited_input": edit},
                    lambda who: model.approve(run, about, who, edit),
                )
            )
        return ways

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data(), who=st.sampled_from(["owner", "owner", "operator", "service", "stranger"]))
    def cancel(self, data: st.DataObject, who: str) -> None:
        run = self.choose(data, list(self.model.runs.values()), "run")
        if who == "stranger":
            with refused("RH006"):
                self.world.user(self.stranger, "select agent_cancel(%s)", run.id)
            return
        if who == "service":
            self.world.service("select agent_cancel(%s, 'enough')", run.id)
        else:
            actor = run.owner if who == "owner" else self.operator
            self.world.user(actor, "select agent_cancel(%s, 'enough')", run.id)
        self.model.cancel(run)

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data(), stranger=st.sampled_from([False, False, False, True]))
    def retry(self, data: st.DataObject, stranger: bool) -> None:
        runs = list(self.model.runs.values())
        run = self.choose(data, [r for r in runs if r.status == "failed"] or runs, "run")
        ask = "select agent_retry(%s)", run.id
        if stranger:
            with refused("RH006"):
                self.world.user(self.stranger, *ask)
        elif run.status != "failed":
            with refused("RH018"):
                self.world.user(run.owner, *ask)
        elif not run.mixed_end:
            self.world.user(run.owner, *ask)
            self.model.retry(run)

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        run = self.choose(data, list(self.model.runs.values()), "run")
        from_step = data.draw(st.integers(1, run.steps + 2), "from step")
        ask = "select agent_fork(%s, %s) as run", run.id, from_step
        if from_step > run.steps + 1 or not self.model.can_fork(run, from_step):
            with refused("RH020"):
                self.world.user(run.owner, *ask)
        else:
            self.model.fork(run, from_step, self.world.user(run.owner, *ask)[0]["run"]["id"])

    @rule(limits=st.sampled_from([{"max_steps": 2}, {"max_steps": 3}, {}]))
    def operator_changes_limits(self, limits: dict[str, int]) -> None:
        """Runs that are running are judged by them at their next step."""
        self.world.configure(limits=limits)
        self.model.operator_limits = limits

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def send_a_message(self, data: st.DataObject) -> None:
        run = self.choose(data, list(self.model.runs.values()), "run")
        ask = "select agent_send(%s, 'Shorter, please.') as message", run.id
        if run.is_final or run.cancel:
            with refused("RH014"):
                self.world.user(run.owner, *ask)
        else:
            run.unread.add(self.world.user(run.owner, *ask)[0]["message"]["id"])

    # -------------------------------------------------------------------------------------------- rare

    @rule(data=st.data(), what=st.sampled_from(["release", "drain", "stop", "prune", "erase"]))
    def do_something_rare(self, data: st.DataObject, what: str) -> None:
        if what == "prune":
            assert self.world.service("select agent_prune('1 hour')") == self.model.prune(3600)
        elif what == "erase" and len(self.owners) > 1:
            gone = self.owners.pop()
            self.world.sql("delete from auth.users where id = %s", gone)
            for run in [r for r in self.model.runs.values() if r.owner == gone]:
                self.model.settle(run, charged=True)
                del self.model.runs[run.id]
        elif what == "release":
            hand = self.any_hand(data)
            self.release(hand, [b.run_id for b in self.some(data, hand.beliefs, "release")])
        elif what in ("drain", "stop"):
            hand = self.any_hand(data)
            answer = hand.worker.stop(draining=what == "drain")
            assert answer["released"] == self.model.stop(hand.id, draining=what == "drain")

    def release(self, hand: Hand, ids: list[str]) -> None:
        answer = self.world.service("select agent_worker_release(%s, %s::uuid[], 'shutdown')", hand.id, ids)
        assert answer["released"] == self.model.release(hand.id, ids)

    # ------------------------------------------------------------------------------------------- always

    @invariant()
    def rows_equal_the_model(self) -> None:
        rows = {row["id"]: row for row in self.ask(ROWS)}
        assert set(rows) == set(self.model.runs)
        for run_id, run in self.model.runs.items():
            row = rows[run_id]
            self.learn_ids(run, row["open"])
            found, expected = seen(row), said(run)
            assert found == expected, {k: (found[k], expected[k]) for k in found if found[k] != expected[k]}

    def learn_ids(self, run: Run, rows: list[list[str]]) -> None:
        ids = {(place, kind): review_id for place, kind, review_id in rows}
        for about in run.open_questions:
            key = (":".join(map(str, about.call.place)), about.kind)
            if not about.id and key in ids:
                about.id = ids[key]

    @invariant()
    def spending_equals_the_model(self) -> None:
        """With the invariant that reservations are those of running runs: nothing is charged twice, or never."""
        counted = self.ask(
            "select tokens, reserved_tokens from agent_usage where tokens + reserved_tokens > 0"
        )
        held = sum(run.reserved for run in self.model.runs.values())
        assert [*counted] == (
            [{"tokens": self.model.budget.used, "reserved_tokens": held}]
            if self.model.budget is not None and self.model.budget.used + held
            else []
        )

    @invariant()
    def rows_are_sound(self) -> None:
        found = self.ask(BROKEN)
        assert not found, found


def seen(row: Row) -> Row:
    """A row of ``ROWS`` as it is compared."""
    return {**row, "open": sorted((place, kind) for place, kind, _ in row["open"])}


def said(run: Run) -> Row:
    """The same by the model."""
    place = {c: ":".join(map(str, c.place)) for c in run.calls.values()}
    return {
        "id": run.id,
        "status": run.status,
        "worker": run.worker,
        "fence": run.fence,
        "attempt": run.attempt,
        "recorded_seq": run.recorded,
        "step_count": run.steps,
        "error": run.error,
        "cancel": run.cancel,
        "calls": {place[c]: [c.status, c.cut_off, c.input] for c in run.calls.values()},
        "open": sorted((place[q.call], q.kind) for q in run.open_questions),
        "changes": run.changes,
    }
