"""The roll-ups behind agent_health_metrics: the same numbers as by rows at any time, whatever changes late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bench.seed.past import Past, seed
from world import Row, World

HOUR = timedelta(hours=1)


def past(world: World, number: int = 1) -> datetime:
    """A seeded day: 400 ended runs, a queue, nothing rolled up. When it ended, within the hour before this one."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(minutes=7)
    made = Past(
        executions=400,
        pending=30,
        paused=5,
        running=3,
        users=8,
        days=1,
        end=end,
        seed=number,
        roll_up=False,
    )
    seed(world.connection, made)
    return end


def roll_up(world: World) -> int:
    """All that is closed or marked; how many hours."""
    done = 0
    # the last hour is closed once nobody writes who began in it, be it an autovacuum
    while not world.one(
        "select s.rolled_until >= date_trunc('hour', runhold.clock(), 'UTC') and not exists ("
        " select from runhold.metrics_marks m where m.hour < s.rolled_until) from runhold.metrics_state s"
    ):
        done += world.one("select runhold.roll_up_metrics(1000)")
    return done


def health(world: World, *args: Any) -> Row:
    return world.service(f"select agent_health_metrics({', '.join(['%s'] * len(args))})", *args)


def by_rows(world: World, *args: Any) -> Row:
    """The answer as if nothing was rolled up."""
    with world.connection.transaction(force_rollback=True):
        world.connection.execute("select runhold.forget_metrics()")
        return health(world, *args)


def same(world: World, *args: Any) -> Row:
    """The answer, which must be the one by rows; but for the clock's progress."""
    found, expected = health(world, *args), by_rows(world, *args)
    for answer in (found, expected):
        answer["queue"].pop("oldest_pending_s")
        if len(args) < 2:
            answer.pop("since")
        if len(args) < 3:
            answer.pop("until")
    assert found == expected
    return found


def exactly(world: World, since: datetime, until: datetime, agent_type: str | None) -> Row:
    """The percentiles as PostgreSQL computes them from the rows, by name."""
    names: Row = {}
    runs = """
        from agent_executions x
        where x.completed_at >= date_trunc('hour', %s::timestamptz, 'UTC') and x.completed_at < %s
          and coalesce(x.agent_type = %s, true)
    """
    for name, value, condition in (
        ("steps", "x.step_count", "and x.status = 'completed'"),
        ("active", "x.active_ms", ""),
        ("queued", "x.queued_ms", ""),
        ("wall", "round(extract(epoch from x.completed_at - x.created_at) * 1000)", ""),
    ):
        for p in (0.5, 0.95):
            names[f"{name}_p{p * 100:.0f}"] = world.one(
                f"select percentile_cont({p}) within group (order by {value}) {runs} {condition}",
                since,
                until,
                agent_type,
            )
    for row in world.sql(
        f"""
        select c.tool_name, percentile_cont(0.5) within group (order by c.latency_ms) as p50,
               percentile_cont(0.95) within group (order by c.latency_ms) as p95
        from agent_tool_calls c where c.execution_id in (select x.id {runs}) group by 1
        """,
        since,
        until,
        agent_type,
    ):
        names |= {f"{row['tool_name']}_p50": row["p50"], f"{row['tool_name']}_p95": row["p95"]}
    return names


def percentiles(found: Row) -> Row:
    """The same of an answer."""
    names = dict(found["time_ms"]) | {f"steps_{p}": found["steps"][p] for p in ("p50", "p95")}
    for tool, row in found["tools"]["by_tool"].items():
        names |= {f"{tool}_p50": row["latency_ms_p50"], f"{tool}_p95": row["latency_ms_p95"]}
    return names


@pytest.mark.parametrize("number", range(2))
def test_roll_ups_and_rows_agree(world: World, number: int) -> None:
    end = past(world, number)
    assert roll_up(world) >= 24
    start = end - timedelta(days=1)
    spans = [
        (start - 30 * HOUR, end + 2 * HOUR),
        (start + 2.3 * HOUR, end - 3.6 * HOUR),
        (end - HOUR / 2, end),
    ]
    for since, until in spans:
        for agent_type in (None, "support_reply", "research"):
            found = same(world, agent_type, since, until)
            expected = exactly(world, since, until, agent_type)
            known = {name: value for name, value in percentiles(found).items() if value is not None}
            assert known == pytest.approx({name: float(expected[name]) for name in known}, rel=0.05)
            assert {name for name, value in expected.items() if value is not None} == known.keys()
            assert found["runs_by_status"].get("completed", 0) == world.one(
                "select count(*) from agent_executions where status = 'completed'"
                " and completed_at >= date_trunc('hour', %s::timestamptz, 'UTC') and completed_at < %s and coalesce(agent_type = %s, true)",
                since,
                until,
                agent_type,
            )


def test_rolled_up_hours_are_not_read_again(world: World) -> None:
    """Or the roll-up would be for nothing: rows that vanish without a trigger are still in the answer."""
    past(world)
    roll_up(world)
    before = health(world)
    world.sql("alter table agent_executions disable trigger user")
    world.sql(
        "delete from agent_executions where completed_at < date_trunc('hour', now()) - interval '1 hour'"
    )
    world.sql("alter table agent_executions enable trigger user")
    after = health(world)
    assert after["runs_by_status"] == before["runs_by_status"]
    assert after["tools"] == before["tools"]
    world.sql("select runhold.forget_metrics()")
    assert health(world)["runs"] < before["runs"]


def test_numbers_are_those_of_the_rows(world: World) -> None:
    past(world)
    roll_up(world)
    found = health(world)
    assert found["runs_by_status"] == {
        row["status"]: row["n"]
        for row in world.sql("select status, count(*) as n from agent_executions group by 1")
    }
    assert found["queue"]["depth"] == 30
    assert found["queue"]["oldest_pending_s"] == pytest.approx(
        float(
            world.one(
                "select extract(epoch from now() - min(state_since)) from agent_executions where status = 'pending' and wake_at is null"
            )
        ),
        abs=30,
    )
    assert found["failures_by_code"] == {
        row["error"]: row["n"]
        for row in world.sql(
            "select error, count(*) as n from agent_executions where error is not null group by 1"
        )
    }
    (sums,) = world.sql(
        "select sum(token_count) as tokens, sum(cost_usd) as usd, count(*) filter (where review_count > 0) * 1.0 / count(*) as rate,"
        " count(*) filter (where status = 'completed') * 1.0 / count(*) as completed"
        " from agent_executions where completed_at is not null"
    )
    assert (found["cost"]["tokens"], found["cost"]["usd"]) == (sums["tokens"], float(sums["usd"]))
    assert found["completion_rate"] == round(float(sums["completed"]), 4)
    assert found["reviews"]["rate"] == round(float(sums["rate"]), 4)
    assert found["tools"]["calls"] == world.one(
        "select count(*) from agent_tool_calls c join agent_executions x on x.id = c.execution_id where x.completed_at is not null"
    )


def some(world: World, condition: str) -> str:
    """A run of a closed hour."""
    return str(
        world.one(f"select id from agent_executions where {condition} order by completed_at, id limit 1")
    )


def retry(world: World) -> None:
    world.service("select agent_retry(%s)", some(world, "error = 'MODEL_ERROR'"))


def prune(world: World) -> None:
    assert world.service("select agent_prune(interval '20 hours')") > 10


def erase(world: World) -> None:
    user = world.one("select user_id from agent_executions group by 1 order by count(*) desc limit 1")
    world.sql("delete from auth.users where id = %s", user)


def cancel_queued(world: World) -> None:
    world.service("select agent_cancel(%s)", some(world, "status = 'pending'"))


def late_review(world: World) -> None:
    run = some(world, "status = 'failed' and tool_call_count > 0")
    world.sql(
        "insert into agent_reviews (execution_id, tool_call_id, user_id, kind, agent_type, status, decided_at)"
        " select c.execution_id, c.id, c.user_id, 'unknown_outcome', 'research', 'approved', now() from agent_tool_calls c"
        " where c.execution_id = %s limit 1",
        run,
    )
    world.sql("update agent_executions set review_count = 1 where id = %s", run)


def review_closed_late(world: World) -> None:
    world.sql(
        "with closing as materialized (select set_config('runhold.closing', 'on', true))"
        " update agent_reviews set status = 'cancelled', used_at = null from closing where execution_id = %s",
        some(
            world,
            "status = 'completed' and id in (select execution_id from agent_reviews where status = 'approved')",
        ),
    )


def late_record(world: World) -> None:
    """A result, and what the step cost, after the run's end."""
    run = some(world, "tool_call_count > 0 and status = 'cancelled'")
    with world.connection.transaction():
        world.sql(
            "update agent_tool_calls set status = 'failed', finished_at = now(), latency_ms = 77 where execution_id = %s",
            run,
        )
        world.sql(
            "update agent_executions set cost_usd = cost_usd + 1, token_count = token_count + 5 where id = %s",
            run,
        )


def fork(world: World) -> None:
    world.service("select agent_fork(%s, 1)", some(world, "status = 'completed'"))


def test_what_changes_late_is_no_lie(world: World) -> None:
    past(world)
    roll_up(world)
    for change in (retry, cancel_queued, late_review, review_closed_late, late_record, fork, prune, erase):
        before = same(world)
        change(world)
        at_once = same(world)
        assert at_once != before, change.__name__
        roll_up(world)
        assert same(world, "support_reply"), change.__name__
        assert same(world) == at_once, change.__name__


def test_users_read_their_own_rows(world: World) -> None:
    past(world)
    roll_up(world)
    user = str(world.one("select user_id from agent_executions group by 1 order by count(*) desc limit 1"))
    found = world.user(user, "select agent_health_metrics() as it")[0]["it"]
    assert found["runs_by_status"] == {
        row["status"]: row["n"]
        for row in world.sql(
            "select status, count(*) as n from agent_executions where user_id = %s group by 1", user
        )
    }
    assert found["queue"]["depth"] == found["runs_by_status"]["pending"]
    assert found["tools"]["calls"] == world.one(
        "select count(*) from agent_tool_calls c join agent_executions x on x.id = c.execution_id"
        " where x.user_id = %s and x.completed_at is not null",
        user,
    )
    assert 0 < found["runs"] < health(world)["runs"]


def test_sweep_rolls_up_a_bounded_part(world: World) -> None:
    past(world)
    rolled = "select count(distinct hour) from agent_metrics_hourly where hours = 1"
    world.sweep()
    assert world.one(rolled) == 4
    same(world)
    world.sweep()
    assert 4 < world.one(rolled) <= 8
    same(world)
    roll_up(world)
    everything = world.one(rolled)
    world.sweep()
    assert world.one(rolled) == everything
    same(world)


def test_hour_is_open_while_somebody_may_still_write_into_it(world: World) -> None:
    past(world)
    roll_up(world)
    writer, user = world.another(), world.person()
    world.at(3600)
    with writer.connection.transaction():
        writer.connection.execute(
            "insert into agent_executions (user_id, agent_type, input_data) values (%s, 'research', '{}')",
            (user,),
        )
        for _ in range(3):
            assert world.one("select runhold.roll_up_metrics(10)") == 0
    assert roll_up(world) == 1
    assert same(world)["queue"]["depth"] == 31


def test_mark_outlives_a_roll_up_that_does_not_see_its_change(world: World) -> None:
    past(world)
    roll_up(world)
    writer = world.another()
    run = some(world, "error = 'MODEL_ERROR'")
    world.sql("update agent_executions set cost_usd = 7 where id = %s", run)
    with writer.connection.transaction():
        writer.connection.execute("update agent_tool_calls set attempt = 2 where execution_id = %s", (run,))
        writer.service("select agent_retry(%s)", run)
        assert roll_up(world) == 1
        same(world)
    same(world)
    assert roll_up(world) == 1
    same(world)


@pytest.fixture
def open_hour(world: World) -> datetime:
    """The begin of an hour of which 58 minutes are over, with some 100 runs that ended in it; its head is rolled up."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + 2 * HOUR
    made = Past(executions=400, paused=5, users=8, days=0.2, end=hour + timedelta(minutes=57), roll_up=False)
    seed(world.connection, made)
    world.at((hour + timedelta(minutes=58) - datetime.now(UTC)).total_seconds())
    roll_up(world)
    while world.one("select head_until from runhold.metrics_state") != hour + timedelta(minutes=50):
        world.sql("select runhold.roll_up_metrics(10)")
    return hour


def test_head_of_the_open_hour_is_not_read_again(world: World, open_hour: datetime) -> None:
    span = (open_hour - 3 * HOUR, open_hour + HOUR)
    for agent_type in (None, "support_reply"):
        before = same(world, agent_type, *span)
        assert before["runs"] > 0
    before = same(world, None, *span)
    world.sql("alter table agent_executions disable trigger user")
    gone = "delete from agent_executions where completed_at >= %s and completed_at < %s"
    world.sql(gone, open_hour, open_hour + timedelta(minutes=50))
    assert health(world, None, *span)["runs_by_status"] == before["runs_by_status"]
    world.sql(gone, open_hour + timedelta(minutes=50), open_hour + HOUR)  # these are read
    world.sql("alter table agent_executions enable trigger user")
    assert health(world, None, *span)["runs"] < before["runs"]


def test_span_that_ends_within_the_head_is_read_from_rows(world: World, open_hour: datetime) -> None:
    for minutes in (20, 49, 50, 57):
        found = same(world, None, open_hour, open_hour + timedelta(minutes=minutes))
        assert found["runs_by_status"].get("completed", 0) == world.one(
            "select count(*) from agent_executions where status = 'completed' and completed_at >= %s and completed_at < %s",
            open_hour,
            open_hour + timedelta(minutes=minutes),
        )


def test_what_changes_within_the_head_is_no_lie(world: World, open_hour: datetime) -> None:
    span = (open_hour - HOUR, open_hour + HOUR)
    before = same(world, None, *span)
    run = world.one(
        "select id from agent_executions where completed_at >= %s order by completed_at limit 1", open_hour
    )
    world.sql("update agent_executions set cost_usd = cost_usd + 7 where id = %s", run)
    at_once = same(world, None, *span)
    assert world.one("select runhold.head_within(%s, %s)", *span) is None
    assert at_once["cost"]["usd"] == pytest.approx(before["cost"]["usd"] + 7)
    marks = "select count(*) from runhold.metrics_marks where hour = %s"
    world.sql("select runhold.roll_up_metrics(10)")
    assert world.one(marks, open_hour) == 1, "what changes again and again is not rolled up each time"
    world.at((open_hour + timedelta(minutes=59, seconds=10) - datetime.now(UTC)).total_seconds())
    world.sql("select runhold.roll_up_metrics(10)")
    assert world.one(marks, open_hour) == 0
    assert same(world, None, *span) == at_once
    assert world.one("select runhold.head_within(%s, %s)", *span) == open_hour + timedelta(minutes=50)


def test_head_becomes_an_hour_when_the_hour_is_over(world: World, open_hour: datetime) -> None:
    span = (open_hour - HOUR, open_hour + HOUR)
    before = same(world, None, *span)
    world.at((open_hour + 1.1 * HOUR - datetime.now(UTC)).total_seconds())
    assert roll_up(world) == 1
    assert same(world, None, *span) == before


def test_sweep_comes_to_its_end_where_the_clock_was_set_back(world: World) -> None:
    """Hours that were rolled up are open again then; a change in one of them waits until it is over anew."""
    end = past(world)
    roll_up(world)
    run = world.one(
        "select id from agent_executions where completed_at is not null order by completed_at desc limit 1"
    )
    world.at((end - datetime.now(UTC) - 2 * HOUR).total_seconds())
    world.sql("update agent_executions set cost_usd = 7 where id = %s", run)
    world.connection.execute("set statement_timeout = '20s'")
    world.sql("select runhold.roll_up_metrics(10)")
    world.sweep()
    assert world.one("select count(*) from runhold.metrics_marks") == 1
    world.at(None)
    roll_up(world)
    same(world)


def test_what_ends_while_an_hour_comes_again_is_counted(world: World) -> None:
    """The clock was set back into an hour that was rolled up; whatever ends then is told in time, and leaves no mark."""
    end = past(world)
    roll_up(world)
    back = (end - datetime.now(UTC)).total_seconds() - 60
    world.at(back)
    world.sql("select runhold.roll_up_metrics(10)")
    world.sql("alter table agent_executions disable trigger user")
    world.sql(
        "update agent_executions set status = 'completed', completed_at = %s, worker_id = null"
        " where id = (select id from agent_executions where status = 'running' limit 1)",
        end,
    )
    world.sql("alter table agent_executions enable trigger user")
    world.at(None)
    roll_up(world)
    same(world)
