"""Several connections meet at the rows that count the use of budgets. They wait for each other, and never crosswise."""

from __future__ import annotations

import psycopg
from budget_world import ask, budget, granted, reserve, usage
from psycopg.types.json import Jsonb
from world import DEFINITION, Row, Worker, World, step

READER: Row = {**DEFINITION, "agent_type": "reader"}


def record_in(world: World, worker: Worker, *entries: Row) -> list[Row]:
    """Record over the connection of ``world``: the verdicts."""
    return world.service("select agent_worker_record(%s, %s)", worker.id, Jsonb(list(entries)))


def two_types(world: World) -> tuple[int, int]:
    """A budget for each of two types: the rows that count their use, in the order in which they are locked."""
    budget(world, "type", "writer", max_tokens=1000)
    budget(world, "type", "reader", max_tokens=1000)
    worker = world.worker(DEFINITION, READER)
    for agent_type in ("writer", "reader"):
        run = world.running(worker, world.person(), agent_type=agent_type)
        worker.record(run, steps=[step(1, worker.definitions[agent_type], tokens=1)])
        worker.end(run, "completed", result={})
    first, second = (row["id"] for row in world.sql("select id from agent_usage order by id"))
    return first, second


def types_of(world: World, row: int) -> str:
    return world.one("select scope_key from agent_usage where id = %s", row)


def test_two_records_at_once_share_what_is_left(arena: World) -> None:
    one, two = arena.worker(), arena.worker()
    budget(arena, max_tokens=1000)
    mine, theirs = arena.running(one, arena.person()), arena.running(two, arena.person())
    reserve(one, mine, 1, 10)  # the row is there
    first, second = arena.another(), arena.another()
    with first.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_record(%s, %s)", (one.id, Jsonb([one.entry(mine, reserve=ask(100, 700))]))
        )
        racing = second.background(lambda: record_in(second, two, two.entry(theirs, reserve=ask(100, 700))))
        assert racing.waits()
    (verdict,) = racing.result()
    assert verdict["reserved"]["detail"]["reason"] == "reserved_by_others"
    assert usage(arena) == (0, 700)


def test_first_two_records_of_a_period_make_one_row(arena: World) -> None:
    one, two = arena.worker(), arena.worker()
    budget(arena, max_tokens=1000)
    mine, theirs = arena.running(one, arena.person()), arena.running(two, arena.person())
    first, second = arena.another(), arena.another()
    with first.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_record(%s, %s)", (one.id, Jsonb([one.entry(mine, reserve=ask(100, 700))]))
        )
        racing = second.background(lambda: record_in(second, two, two.entry(theirs, reserve=ask(100, 300))))
        assert racing.waits()
    assert racing.result()[0]["reserved"] == granted(300)
    assert arena.sql("select reserved_tokens from agent_usage") == [{"reserved_tokens": 1000}]


def test_first_rows_of_a_period_are_made_in_one_order(arena: World) -> None:
    """Somebody is making the row of the readers; both want that of the writers, too, in opposite orders."""
    workers = [arena.worker(DEFINITION, READER) for _ in range(2)]
    for agent_type in ("reader", "writer"):
        budget(arena, "type", agent_type, max_tokens=1000)
    orders = (("reader", "writer"), ("writer", "reader"))
    entries = [
        [
            worker.entry(arena.running(worker, arena.person(), agent_type=agent_type), reserve=ask(1, 100))
            for agent_type in order
        ]
        for worker, order in zip(workers, orders, strict=True)
    ]
    holder, sides = arena.another(), [arena.another() for _ in workers]
    with holder.acting(None) as cursor:
        cursor.execute(
            "insert into agent_usage (scope, scope_key, period, period_start)"
            " values ('type', 'reader', 'day', (now() at time zone 'UTC')::date)"
        )
        racing = [
            side.background(lambda side=side, w=worker, e=each: record_in(side, w, *e))
            for side, worker, each in zip(sides, workers, entries, strict=True)
        ]
        assert all(each.waits() for each in racing)
        raise psycopg.Rollback
    for each in racing:
        assert [v["reserved"] for v in each.result()] == [granted(100)] * 2
    assert usage(arena, "type", "reader") == usage(arena, "type", "writer") == (0, 200)


def test_reserving_meets_the_sweep_of_two_lost_workers(arena: World) -> None:
    """Each lost worker's run holds the row that the other's does not; a record reserves in both."""
    first, second = two_types(arena)
    recording = arena.worker(DEFINITION, READER)
    entries = [
        recording.entry(
            arena.running(recording, arena.person(), agent_type=types_of(arena, row)), reserve=ask(1, 50)
        )
        for row in (second, first)
    ]
    # the sweep finds the one first that holds the second row
    lost = sorted((arena.worker(DEFINITION, READER) for _ in range(2)), key=lambda worker: worker.id)
    for worker, row in zip(lost, (second, first), strict=True):
        run = arena.running(worker, arena.person(), agent_type=types_of(arena, row))
        reserve(worker, run, 1, 100)
    arena.sql("update agent_workers set dead_at = now() where id = any (%s::uuid[])", [w.id for w in lost])

    holder, sweeping, side = (arena.another() for _ in range(3))
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_usage where id = %s for update", (second,))
        sweep = sweeping.background(sweeping.sweep)
        assert sweep.waits()
        record = side.background(lambda: record_in(side, recording, *entries))
        assert record.waits()
    assert sweep.result()["requeued"] == 2
    assert [v["reserved"] for v in record.result()] == [granted(50)] * 2
    for agent_type in ("writer", "reader"):
        assert usage(arena, "type", agent_type) == (101, 50)


def test_erasing_two_people_meets_a_record_with_their_budgets_in_the_other_order(arena: World) -> None:
    first, second = two_types(arena)
    worker = arena.worker(DEFINITION, READER)
    entries = [
        worker.entry(
            arena.running(worker, arena.person(), agent_type=types_of(arena, row)), reserve=ask(1, 50)
        )
        for row in (first, second)
    ]
    gone = [arena.person() for _ in range(2)]
    for person, row in zip(gone, (second, first), strict=True):
        reserve(worker, arena.running(worker, person, agent_type=types_of(arena, row)), 1, 100)

    holder, eraser, side = (arena.another() for _ in range(3))
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_usage where id = %s for update", (second,))
        erasing = eraser.background(
            lambda: eraser.sql("delete from auth.users where id = any (%s::uuid[])", gone)
        )
        assert erasing.waits()
        record = side.background(lambda: record_in(side, worker, *entries))
        assert record.waits()
    erasing.result()
    assert [v["reserved"] for v in record.result()] == [granted(50)] * 2
    for agent_type in ("writer", "reader"):
        assert usage(arena, "type", agent_type) == (101, 50)


def test_record_of_a_person_who_is_being_erased_does_not_wait(arena: World) -> None:
    """The eraser holds the person's row and will wait for the run, which the record holds."""
    worker, owner = arena.worker(), arena.person()
    budget(arena, "user", owner, max_tokens=1000)
    run = arena.running(worker, owner)
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("select from auth.users where id = %s for update", (owner,))
        racing = arena.background(lambda: reserve(worker, run, 1, 100))
        assert not racing.waits()
        cursor.execute("delete from auth.users where id = %s", (owner,))
    assert racing.result() == granted(100)
    assert arena.one("select count(*) from agent_usage") == 0


def test_erasing_waits_for_the_record_that_reserves_and_charges_it(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    budget(arena, max_tokens=1000)
    run = arena.running(worker, owner)
    over = arena.another()
    with over.acting("service_role") as cursor:
        entry = worker.entry(run, reserve=ask(1, 100))
        cursor.execute("select agent_worker_record(%s, %s)", (worker.id, Jsonb([entry])))
        erasing = arena.background(lambda: arena.sql("delete from auth.users where id = %s", owner))
        assert erasing.waits()
    erasing.result()
    assert usage(arena) == (100, 0)


def test_budget_that_is_widened_while_a_run_goes_to_sleep_wakes_it_with_the_sweep(arena: World) -> None:
    """Neither sees the other: the operator's statement ran before the run was asleep."""
    worker = arena.worker()
    arena.configure(on_budget="wait")
    budget(arena, max_tokens=50)
    run = arena.running(worker, arena.person())
    refusal = reserve(worker, run, 100, 500)
    over = arena.another()
    with over.acting("service_role") as cursor:
        entry = worker.entry(
            run,
            transition={
                "to": "pending",
                "reason": "budget",
                "delay_ms": 3_600_000,
                "detail": {"waiting_for": "budget", **refusal["detail"]},
            },
        )
        cursor.execute("select agent_worker_record(%s, %s)", (worker.id, Jsonb([entry])))
        arena.service("update agent_budgets set max_tokens = 1000 returning id")
    asleep = "select wake_at > now() + interval '1 minute' from agent_executions"
    assert arena.one(asleep)
    assert arena.sweep()["repaired"] == 1
    assert not arena.one(asleep)
