"""Words for tests of budgets: caps, reservations as a worker asks for them, and what the database counts."""

from __future__ import annotations

from typing import Any

from world import Row, Worker, World, step

INVARIANT = """
select g.scope, g.scope_key, g.period, g.reserved_tokens, g.reserved_usd, h.tokens, h.usd
from agent_usage g
cross join lateral (
  select coalesce(sum(x.reserved_tokens), 0) as tokens, coalesce(sum(x.reserved_usd), 0) as usd
  from agent_executions x where x.status = 'running' and g.id = any (x.reserved_in)) h
where (g.reserved_tokens, g.reserved_usd) <> (h.tokens, h.usd)
"""
"""Rows whose reservations are not those of the running runs that list them: there are none, ever."""


def clock(world: World, at: str) -> None:
    """The database's time, for all that this world says from now on."""
    world.connection.execute("select set_config('runhold.now', %s, false)", (at,))


def budget(world: World, scope: str = "all", key: str = "", *, period: str = "day", **caps: Any) -> None:
    """What an operator sets through the API: ``max_tokens``, ``max_usd``."""
    world.service(
        "insert into agent_budgets (scope, scope_key, period, max_tokens, max_usd)"
        " values (%s, %s, %s, %s, %s) returning id",
        scope,
        key,
        period,
        caps.get("max_tokens"),
        caps.get("max_usd"),
    )


def ask(least: int, most: int, **usd: Any) -> Row:
    """The member ``reserve`` of an entry."""
    return {"min_tokens": least, "max_tokens": most, **usd}


def granted(tokens: int, **usd: Any) -> Row:
    """The answer that lets a model be called: the most that the call may take, and cost."""
    return {"granted": True, "tokens": tokens, **usd}


def reserve(worker: Worker, run: Row, least: int, most: int, **usd: Any) -> Row:
    """Ask as the first call of a claim does: the member ``reserved`` of the verdict."""
    return worker.record(run, reserve=ask(least, most, **usd))["reserved"]


def think(worker: Worker, run: Row, number: int, tokens: int, usd: float = 0, **more: Any) -> Row:
    """Record a step that took so much: the verdict."""
    return worker.record(run, steps=[step(number, worker.definition, tokens=tokens, cost_usd=usd)], **more)


def usage(world: World, scope: str = "all", key: str = "", period: str = "day") -> tuple[int, int]:
    """Tokens used and reserved, in all periods together."""
    (row,) = world.sql(
        "select coalesce(sum(tokens), 0)::bigint as used, coalesce(sum(reserved_tokens), 0)::bigint as reserved"
        " from agent_usage where scope = %s and scope_key = %s and period = %s",
        scope,
        key,
        period,
    )
    return row["used"], row["reserved"]


def usage_usd(world: World, scope: str = "all", key: str = "", period: str = "day") -> tuple[float, float]:
    """USD used and reserved."""
    (row,) = world.sql(
        "select usd, reserved_usd from agent_usage where scope = %s and scope_key = %s and period = %s",
        scope,
        key,
        period,
    )
    return float(row["usd"]), float(row["reserved_usd"])


def charges(world: World, run_id: str) -> list[Row]:
    """What was charged as estimated: the data of the events that say so."""
    return [
        row["data"]
        for row in world.sql(
            "select data from agent_events where execution_id = %s and kind = 'budget_charged' order by id",
            run_id,
        )
    ]


def assert_balanced(world: World) -> None:
    found = world.sql(INVARIANT)
    assert not found, found
