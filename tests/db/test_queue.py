"""Whose turn it is: priority first, then each user's runs in turn, the one that has waited longest first."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from world import DEFINITION, Row, Worker, World

READER = {**DEFINITION, "agent_type": "reader"}


def backlog(world: World, user: str, n: int, agent_type: str = "writer", priority: int = 0) -> None:
    """``n`` runs at once, each created a microsecond after the one before."""
    with world.acting(None) as cursor:
        cursor.execute("alter table agent_executions disable trigger user")
        cursor.execute(
            "insert into agent_executions (user_id, agent_type, input_data, priority, created_at)"
            " select %s, %s, '{}', %s, clock_timestamp() from generate_series(1, %s)",
            (user, agent_type, priority, n),
        )
        cursor.execute("alter table agent_executions enable trigger user")


def users(runs: Sequence[Row]) -> list[str]:
    return [run["user_id"] for run in runs]


def turns(worker: Worker, n: int) -> list[str]:
    """Whose runs ``n`` claims of one run each give."""
    return [user for _ in range(n) for user in users(worker.claim(1))]


def lanes(world: World) -> int:
    return world.one("select count(*) from runhold.lanes")


@pytest.fixture
def never_waits(world: World) -> None:
    """Whatever waits for a lock on the world's connection fails."""
    world.connection.execute("set lock_timeout = '1s'")


# ------------------------------------------------------------------------------------------------------------- turns


def test_ten_thousand_runs_of_one_user_delay_nobodys_first_run(world: World) -> None:
    worker, busy = world.worker(), world.person()
    backlog(world, busy, 10_000)
    others = [world.person() for _ in range(3)]
    for user in others:
        world.submit(user)
    assert turns(worker, 4) == [busy, *others]
    late = world.person()
    world.submit(late)
    assert turns(worker, 2) == [busy, late]


def test_a_claim_of_many_is_shared_out(world: World) -> None:
    worker, busy, two, one = world.worker(), *(world.person() for _ in range(3))
    backlog(world, busy, 10_000)
    backlog(world, two, 500)
    world.submit(one)
    assert Counter(users(worker.claim(64))) == {one: 1, busy: 32, two: 31}
    assert Counter(users(worker.claim(64))) == {busy: 32, two: 32}


@pytest.mark.parametrize("n", [5, 300], ids=["in sight", "behind the head of the queue"])
def test_two_users_take_turns(world: World, n: int) -> None:
    worker, first, second = world.worker(), world.person(), world.person()
    backlog(world, first, n)
    backlog(world, second, n)
    assert turns(worker, 6) == [first, second] * 3


def test_each_type_of_a_user_has_a_turn_of_its_own(world: World) -> None:
    worker, user, other = world.worker(DEFINITION, READER), world.person(), world.person()
    backlog(world, user, 3)
    backlog(world, other, 3)
    backlog(world, user, 3, "reader")
    claimed = [(run["user_id"], run["agent_type"]) for _ in range(6) for run in worker.claim(1)]
    assert claimed == [(user, "writer"), (other, "writer"), (user, "reader")] * 2


def test_priority_goes_before_turns(world: World) -> None:
    worker, urgent, other = world.worker(), world.person(), world.person()
    backlog(world, other, 300)
    backlog(world, urgent, 3, priority=5)
    backlog(world, urgent, 3)
    assert turns(worker, 3) == [urgent] * 3
    # of equal priority again: it had its turn
    assert turns(worker, 3) == [other, urgent, other]


def test_urgent_runs_of_one_user_do_not_hide_those_of_another(world: World) -> None:
    worker, first, second = world.worker(), world.person(), world.person()
    backlog(world, first, 300, priority=5)
    backlog(world, second, 2)
    backlog(world, second, 2, priority=5)
    assert turns(worker, 4) == [first, second, first, second]


def test_newcomers_do_not_overtake_who_waits(world: World) -> None:
    worker, patient = world.worker(), world.person()
    backlog(world, patient, 3)
    served: list[str] = []
    for _ in range(5):
        served += turns(worker, 1)
        world.submit(world.person())
    assert served.count(patient) == 3


def test_turns_at_the_same_instant_differ(world: World) -> None:
    worker, first, second = world.worker(lease_ms=600_000), world.person(), world.person()
    backlog(world, first, 3)
    backlog(world, second, 3)
    world.at(60)  # stands still
    assert turns(worker, 6) == [first, second] * 3


def test_users_behind_a_backlog_are_all_found(world: World) -> None:
    """More of them than one claim looks at, and ids that are close together."""
    worker, busy = world.worker(), world.person()
    backlog(world, busy, 300)
    with world.acting(None) as cursor:
        cursor.execute(
            "insert into auth.users (id, email) select lpad(to_hex(i), 32, '0')::uuid, i || '@example.org'"
            " from generate_series(1, 250) i"
        )
        cursor.execute(
            "insert into agent_executions (user_id, agent_type, input_data)"
            " select lpad(to_hex(i), 32, '0')::uuid, 'writer', '{}'"
            " from generate_series(1, 8), generate_series(250, 1, -1) i"
        )
    expected = {str(uuid.UUID(int=i)) for i in range(1, 251)}
    claims = [users(worker.claim(25)) for _ in range(20)]
    assert expected <= {user for claim in claims for user in claim}


@pytest.mark.parametrize("seed", range(2))
def test_nobody_starves(world: World, seed: int) -> None:
    """Whoever has a run in the queue has a turn within as many turns as there are users, whatever comes in."""
    chance = random.Random(seed)
    worker, people = world.worker(), [world.person() for _ in range(7)]
    waiting, since = Counter[str](), dict[str, int]()
    given = 0
    for _ in range(30):
        user = chance.choice(people)
        n = chance.choice([0, 0, 1, 2, 230])
        if n:
            backlog(world, user, n)
            waiting[user] += n
            since.setdefault(user, given)
        for served in users(worker.claim(chance.choice([1, 1, 2, 5]))):
            given += 1
            assert given - since.pop(served) <= 2 * len(people)
            waiting[served] -= 1
            if waiting[served]:
                since[served] = given
    assert given > 30


# -------------------------------------------------------------------------------------------------------------- caps


def test_turns_hold_under_a_cap_of_the_type(world: World) -> None:
    worker, first, second = world.worker(), world.person(), world.person()
    world.configure(max_concurrent=1)
    backlog(world, first, 300)
    backlog(world, second, 3)
    served: list[str] = []
    for _ in range(4):
        (run,) = worker.claim(10)
        served.append(run["user_id"])
        assert worker.claim(10) == []
        worker.end(run, "completed", result={})
    assert served == [first, second] * 2


def test_users_at_their_cap_do_not_use_up_what_a_claim_looks_at(world: World) -> None:
    worker, full, late = world.worker(), [world.person() for _ in range(3)], world.person()
    world.configure(max_concurrent_per_user=2)
    for user in full:
        backlog(world, user, 150)
    backlog(world, late, 3)
    assert Counter(users(worker.claim(64))) == dict.fromkeys([*full, late], 2)
    assert worker.claim(64) == []


@pytest.mark.parametrize("cap", ["max_concurrent", "max_concurrent_per_user"])
def test_caps_are_exact_when_two_claim_at_once(world: World, cap: str) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    world.configure(**{cap: 3})
    backlog(world, user, 300)
    other = world.another()
    with claiming(other, one, 2) as held:
        assert len(held) == 2
        meanwhile = two.claim_answer(10)
        assert (meanwhile["runs"], meanwhile["more"]) == ([], True)  # somebody is counting: look again
    assert len(two.claim(10)) == 1
    assert one.claim(10) == two.claim(10) == []


# ----------------------------------------------------------------------------------------------------------- at once


@contextmanager
def claiming(world: World, worker: Worker, n: int) -> Iterator[list[Row]]:
    """A claim of ``worker`` whose transaction goes on while the block runs."""
    worker.claim_seq += 1
    with world.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_claim(%s, %s, jsonb_build_object('writer', %s::text), %s) as answer",
            (worker.id, worker.claim_seq, worker.definition, n),
        )
        yield cursor.fetchall()[0]["answer"]["runs"]


@pytest.mark.usefixtures("never_waits")
@pytest.mark.parametrize("known", [False, True], ids=["new lanes", "known lanes"])
def test_claims_at_once_wait_for_nothing(world: World, known: bool) -> None:
    one, two = world.worker(), world.worker()
    people = [world.person() for _ in range(4)]
    for user in people:
        backlog(world, user, 300)
    if known:
        for _ in range(2):
            one.claim(8)
    with claiming(world.another(), one, 8) as held:
        got = two.claim(8)
    assert Counter(users(held)) == dict.fromkeys(people, 2)
    assert len(got) == 8
    assert {run["id"] for run in held}.isdisjoint(run["id"] for run in got)


@pytest.mark.usefixtures("never_waits")
def test_claim_finds_runs_behind_those_that_others_hold(world: World) -> None:
    worker, user = world.worker(), world.person()
    backlog(world, user, 400)
    with world.another().acting(None) as cursor:
        cursor.execute(
            "select id from agent_executions order by priority desc, created_at, id limit 300 for update"
        )
        held = {str(row["id"]) for row in cursor.fetchall()}
        got = worker.claim_answer(5)
    assert len(got["runs"]) == 5
    assert got["more"] is True
    assert held.isdisjoint(run["id"] for run in got["runs"])


@pytest.mark.usefixtures("never_waits")
def test_claim_waits_for_no_erasure_and_leaves_nothing_of_the_erased(world: World) -> None:
    worker, gone, other = world.worker(), world.person(), world.person()
    for user in (gone, other):
        backlog(world, user, 300)
    turns(worker, 4)
    assert lanes(world) == 2
    with world.another().acting(None) as cursor:
        cursor.execute("delete from auth.users where id = %s", (gone,))
        assert users(worker.claim(4)) == [other] * 4
    assert lanes(world) == 1
    world.sql("delete from auth.users where id = %s", other)
    assert lanes(world) == 0
    assert world.sql("select * from runhold.lane_scans where last_user_id in (%s, %s)", gone, other) == []


# --------------------------------------------------------------------------------------------------------- upkeep


def test_nothing_is_remembered_where_nobody_waits(world: World) -> None:
    worker = world.worker()
    for _ in range(3):
        world.submit(world.person())
    assert len(worker.claim(10)) == 3
    assert lanes(world) == 0


def test_sweep_forgets_turns_after_a_day(world: World) -> None:
    worker, user = world.worker(), world.person()
    backlog(world, user, 3)
    worker.claim(1)
    world.sweep()
    assert lanes(world) == 1
    world.at(86_401)
    world.sweep()
    assert lanes(world) == 0
