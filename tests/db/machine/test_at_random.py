"""Four connections fire at twenty runs, all at once: nobody deadlocks, and what is left is sound and comes to its end."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from invariants import assert_everything_ends, assert_sound
from psycopg.types.json import Jsonb
from world import Row, World, call, question, result, step

CONNECTIONS = 4
RUNS = 20
TURNS = 250
BUSY_ROUNDS = 1000
STATES = ("pending", "awaiting_review", "running")

EXPECTED = {
    "RH006": "the run was pruned or erased meanwhile",
    "RH007": "someone decided first",
    "RH008": "expired meanwhile",
    "RH012": "swept, and not registered anew yet",
    "RH014": "a message to an ended run",
    "RH018": "a retry of a run that goes on",
    "RH019": "a retry of a run whose limit is used up",
}


class Clock:
    """The time of all connections: it never goes back for anybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0

    def later(self, seconds: float) -> float:
        with self._lock:
            self._now += seconds
            return self._now


class Actor:
    """One connection: a worker with what it holds, and at other moments a user, a reviewer or the sweep."""

    def __init__(self, world: World, clock: Clock, runs: list[str], owner: str, seed: int) -> None:
        self.world, self.clock, self.runs, self.owner = world, clock, runs, owner
        self.choice = random.Random(seed)
        self.reviewer = world.reviewer()
        self.worker = world.worker(lease_ms=20_000)
        self.held: list[Row] = []
        self.met: Counter[str] = Counter()

    def play(self, turns: int) -> None:
        moves: list[Callable[[], Any]] = [
            *[self.claim] * 3,
            *[self.record] * 8,
            *[self.decide] * 4,
            self.beat,
            self.beat,
            self.sweep,
            self.cancel,
            self.retry,
            self.send,
            self.release,
        ]
        for _ in range(turns):
            self.world.at(self.clock.later(self.choice.choice([0, 0.1, 1, 3])))
            try:
                self.choice.choice(moves)()
            except psycopg.Error as error:
                if error.sqlstate not in EXPECTED:
                    raise
                self.met[error.sqlstate] += 1
                if error.sqlstate == "RH012":
                    self.worker, self.held = self.world.worker(lease_ms=20_000), []

    def claim(self) -> None:
        self.held += self.worker.claim(self.choice.randint(1, 4))

    def beat(self) -> None:
        answer = self.worker.heartbeat([run["id"] for run in self.held])
        self.held = [run for run in self.held if run["id"] not in answer["lost"]]

    def sweep(self) -> None:
        self.world.sweep()

    def release(self) -> None:
        if self.held:
            self.worker.release(self.held.pop())

    def record(self) -> None:
        if not self.held:
            return
        run = self.choice.choice(self.held)
        calls = self.world.calls(run["id"])
        places = {s: [(c["step_number"], c["position"]) for c in calls if c["status"] == s] for s in STATES}
        body: dict[str, Any] = {"results": [result(*place) for place in places["running"]]}
        way = self.choice.choice(["think", "think", "take", "pause", "end"])
        if way == "think":
            body |= self.next_step(run)
        elif way == "take":
            body["starts"] = [
                {"step_number": n, "position": p} for n, p in places["pending"] + places["awaiting_review"]
            ]
        else:
            ends = {"to": "completed", "result": {}, "final": True}, {"to": "failed", "error": "TOOL_FAILED"}
            body["transition"] = {"to": "awaiting_review"} if way == "pause" else self.choice.choice(ends)
        verdict = self.until_told(self.worker.entry(run, **body))
        self.met[verdict["verdict"]] += 1
        gone = verdict["verdict"] == "fenced" or (verdict["verdict"] == "ok" and "transition" in body)
        if verdict["verdict"] == "stop":
            self.until_told(self.worker.entry(run, transition={"to": "failed", "error": verdict["code"]}))
            gone = True
        if gone:
            self.held.remove(run)

    def next_step(self, run: Row) -> Row:
        number = self.world.one(
            "select coalesce(max(step_number), 0) + 1 from agent_steps where execution_id = %s", run["id"]
        )
        gated = self.choice.random() < 0.6
        return {
            "steps": [step(number, self.worker.definition)],
            "calls": [
                call(number, 0, "send", "unsafe", "awaiting_review" if gated else "running"),
                call(number, 1, "save", "idempotent", "running"),
            ],
            "reviews": [question(number, 0)] if gated else [],
        }

    def until_told(self, entry: Row) -> Row:
        """What the worker does about *busy*: the same entry again."""
        for _ in range(BUSY_ROUNDS):
            (verdict,) = self.worker.record_all([entry])
            if verdict["verdict"] != "busy":
                return verdict
            self.met["busy"] += 1
        raise AssertionError(f"busy for ever: {entry}")

    def decide(self) -> None:
        """Several at once, in any order; all of one kind, as one UPDATE says one thing."""
        kind = self.choice.choice(["approval", "unknown_outcome"])
        found = self.world.sql("select id from agent_reviews where status = 'pending' and kind = %s", kind)
        some = self.choice.sample([row["id"] for row in found], min(len(found), self.choice.randint(1, 4)))
        said = self.choice.choice(["approved", "approved", "rejected"])
        again = Jsonb({"outcome": self.choice.choice(["happened", "again"])}) if kind != "approval" else None
        if some:
            self.world.user(
                self.reviewer,
                "update agent_reviews set status = %s, answer = %s where id = any (%s)",
                said,
                again,
                some,
            )

    def cancel(self) -> None:
        if self.choice.random() < 0.3:
            self.steer("select agent_cancel(%s)")

    def retry(self) -> None:
        self.steer("select agent_retry(%s)")

    def send(self) -> None:
        self.steer("select agent_send(%s, 'Shorter, please.')")

    def steer(self, ask: str) -> None:
        self.world.user(self.owner, ask, self.choice.choice(self.runs))


def storm(world: World, seed: int, turns: int) -> Counter[str]:
    """Let them play; what they met, by name."""
    world.worker()
    owner, clock = world.person(), Clock()
    runs = [world.submit(owner) for _ in range(RUNS)]
    actors = [Actor(world.another(), clock, runs, owner, seed * CONNECTIONS + n) for n in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for played in [threads.submit(actor.play, turns) for actor in actors]:
            played.result()

    def advance(seconds: float) -> None:
        world.at(clock.later(seconds))

    advance(0)
    world.sweep()
    assert_sound(world)
    assert_everything_ends(world, advance)
    return sum((actor.met for actor in actors), Counter[str]())


def test_four_connections_at_twenty_runs(world: World) -> None:
    met = storm(world, seed=1, turns=TURNS)
    assert met["ok"] > 20
    assert met["RH007"] + met["RH018"] + met["fenced"] > 0  # they did get in each other's way


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(2, 42))
def test_many_more_storms(world: World, seed: int) -> None:
    storm(world, seed, turns=5 * TURNS)
