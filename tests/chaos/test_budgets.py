"""Two hundred runs spend from small budgets at once, over three workers that are killed: the caps hold, to the token."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
import spender
from psycopg.rows import dict_row
from supabase_project import Project
from town import Town

from runhold.testing import ScriptedModel
from runhold.testing.chaos import Fleet, ForkServer, assert_nothing_lost, eventually

RUNS = 100
"""Of each agent."""

WORKERS = 3
CAPACITY = 24
KILLS = 3
LEASE_S = 4

STEPS_PER_KILL = 40
"""Steps that are recorded between one kill and the next: all of them in the middle."""

FAILING, WAITING = spender.failing.type, spender.waiting.type

MAX_TOKENS = 40_000
"""Of the waiting agent: enough for a third of its runs, and for some 80 calls at once."""

MAX_USD = Decimal("0.06")
"""Of the failing agent, at a dollar per million tokens of input and two of output: likewise."""

PATIENCE_S = 120
"""For each phase. It takes a tenth."""

LOOK_S = 0.05
HURRY_S = 0.5


TOLD: LiteralString = """
with spent as (
  select s.execution_id, s.input_tokens + s.output_tokens as tokens, s.cost_usd as usd from agent_steps s
  union all
  select e.execution_id, (e.data ->> 'tokens')::bigint, (e.data ->> 'usd')::numeric from agent_events e
  where e.kind = 'budget_charged')
select coalesce(sum(tokens), 0) as tokens, coalesce(sum(usd), 0) as usd
from spent join agent_executions x on x.id = spent.execution_id
where %(key)s = case %(scope)s when 'type' then x.agent_type when 'user' then x.user_id::text end
"""
"""What the steps tell that runs used, and what was charged of calls without a step."""


@dataclass
class Bank:
    """The database, as whoever audits it sees it.

    :ivar most: the most that was ever seen used and reserved together, by agent: tokens and USD.
    """

    connection: psycopg.Connection[dict[str, Any]]
    runs: list[str] = field(default_factory=list[str])
    most: dict[str, tuple[int, Decimal]] = field(default_factory=dict[str, tuple[int, Decimal]])

    def rows(self, query: LiteralString, args: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        return self.connection.execute(query, args).fetchall()

    def usage(self, agent_type: str) -> dict[str, Any]:
        return self.rows("select * from agent_usage where scope = 'type' and scope_key = %s", [agent_type])[0]

    def states(self) -> Counter[tuple[str, str]]:
        """How many runs of each agent are how far."""
        rows = self.rows(
            """select agent_type, status || coalesce(' ' || error, '') ||
                      case when status = 'pending' then coalesce(' ' || (error_detail ->> 'reason'), '') else '' end as state
               from agent_executions where id = any (%s::uuid[])""",
            [self.runs],
        )
        return Counter((row["agent_type"], row["state"]) for row in rows)

    def look(self) -> None:
        """Note what is used and reserved at this moment."""
        for row in self.rows("select * from agent_usage where scope = 'type'"):
            tokens, usd = self.most.get(row["scope_key"], (0, Decimal(0)))
            self.most[row["scope_key"]] = (
                max(tokens, row["tokens"] + row["reserved_tokens"]),
                max(usd, row["usd"] + row["reserved_usd"]),
            )

    def let_go_on(self) -> None:
        """Let those go on that wait for what others hold: by themselves they would some seconds later."""
        self.connection.execute(
            """update agent_executions set wake_at = now()
               where id in (select id from agent_executions
                            where id = any (%s::uuid[]) and status = 'pending' and wake_at > now()
                              and error_detail ->> 'reason' = 'reserved_by_others'
                            order by id for no key update skip locked)""",
            (self.runs,),
        )
        self.connection.execute("select runhold.wake_workers()")

    def balance(self) -> None:
        """What was used is what the steps tell, and what calls without a step were charged; nothing is held any more."""
        for row in self.rows("select * from agent_usage"):
            (told,) = self.rows(TOLD, {"scope": row["scope"], "key": row["scope_key"]})
            assert (row["tokens"], row["usd"]) == (told["tokens"], told["usd"]), row
            assert (row["reserved_tokens"], row["reserved_usd"]) == (0, 0), row
        assert not self.rows("select id from agent_executions where reserved_in is not null")


pytestmark = pytest.mark.local_stack("compares all budgets of the database")


@pytest.fixture
def bank(stack: Project) -> Iterator[Bank]:
    """Both agents are known, with a price, and nobody has spent anything. Afterwards there is no budget any more."""
    me = {"id": str(uuid4()), "hostname": "t", "pid": 1, "version": "0", "lease_ms": 1000}
    agents = [agent.definition() for agent in (spender.failing, spender.waiting)]
    with psycopg.connect(stack.database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("select runhold.worker_register(%s, %s)", [json.dumps(me), json.dumps(agents)])
        connection.execute("update agent_types set on_budget = 'wait' where name = %s", [WAITING])
        connection.execute("insert into model_prices values ('spender-1', '-infinity', 1, 1, 2)")
        try:
            yield Bank(connection)
        finally:
            connection.execute("delete from agent_budgets")
            connection.execute(
                "delete from agent_executions where agent_type = any (%s)", [[FAILING, WAITING]]
            )
            connection.execute("delete from agent_usage")
            connection.execute("delete from model_prices where model = 'spender-1'")


async def submit(town: Town, bank: Bank) -> None:
    """Two people, who have wide budgets of their own, start all runs."""
    for _ in range(2):
        person = await town.person()
        bank.connection.execute(
            "insert into agent_budgets (scope, scope_key, period, max_tokens) values ('user', %s, 'month', 10000000)",
            [await town.user_id(person)],
        )
        rows = [
            {"agent_type": agent_type, "input_data": {"number": number}}
            for number in range(RUNS // 2)
            for agent_type in (FAILING, WAITING)
        ]
        answer = await person.table("agent_executions").insert(rows).execute()
        bank.runs += [str(row["id"]) for row in answer.data]
    bank.connection.execute(
        """insert into agent_budgets (scope, scope_key, period, max_tokens, max_usd) values
             ('type', %s, 'day', %s, null), ('type', %s, 'day', null, %s)""",
        [WAITING, MAX_TOKENS, FAILING, MAX_USD],
    )


async def kill_in_the_middle(fleet: Fleet, bank: Bank) -> None:
    """Again and again, one of the workers that work."""
    for number in range(1, KILLS + 1):
        await eventually(
            lambda number=number: (
                bank.rows(
                    "select count(*) as n from agent_steps where execution_id = any (%s::uuid[])", [bank.runs]
                )[0]["n"]
                >= number * STEPS_PER_KILL
            ),
            "steps",
            patience_s=PATIENCE_S,
        )
        victim = max(fleet.working, key=lambda worker: bank_holds(bank, worker.pid))
        victim.kill()


def bank_holds(bank: Bank, pid: int) -> int:
    """For how many runs a worker holds a reservation."""
    return bank.rows(
        """select count(*) as n from agent_executions x join agent_workers w on w.id = x.worker_id
           where w.pid = %s and x.reserved_in is not null""",
        [pid],
    )[0]["n"]


async def until_all(fleet: Fleet, bank: Bank, *states: str) -> None:
    """Wait until every run is in one of these states."""
    began = hurried = time.monotonic()
    while not all(state in states for _, state in bank.states()):
        if time.monotonic() - began > PATIENCE_S:
            raise AssertionError(f"They are not all {states}: {bank.states()}\n{fleet.logs}")
        if time.monotonic() - hurried > HURRY_S:
            hurried = time.monotonic()
            bank.let_go_on()
        bank.look()
        await asyncio.sleep(LOOK_S)


@pytest.mark.timeout(300)
async def test_budgets_hold_over_workers_that_are_killed(
    stack: Project, forks: ForkServer, bank: Bank, tmp_path: Path
) -> None:
    async with ScriptedModel(spender.script, latency_s=0.1, record=False) as model:
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        options = ("--capacity", str(CAPACITY), "--lease", str(LEASE_S))
        async with Fleet(forks, spender.__file__, *options, folder=tmp_path, env=env) as fleet:
            town = Town(stack, tmp_path, model.base_url, forks)
            await submit(town, bank)
            fleet.keep(WORKERS)
            killing = asyncio.create_task(kill_in_the_middle(fleet, bank))
            await until_all(fleet, bank, "completed", "failed BUDGET_EXCEEDED", "pending exceeded")
            await killing

            states = bank.states()
            print(states, bank.most, fleet.thrown)
            assert 0 < states[FAILING, "completed"] < RUNS
            assert states[FAILING, "completed"] + states[FAILING, "failed BUDGET_EXCEEDED"] == RUNS
            assert 0 < states[WAITING, "completed"] < RUNS
            assert states[WAITING, "completed"] + states[WAITING, "pending exceeded"] == RUNS
            bank.balance()
            assert len(fleet.workers) >= WORKERS + KILLS
            assert bank.rows("select 1 from agent_events where kind = 'budget_charged'"), (
                "nobody was killed in a call"
            )
            # the estimates of the input are higher than what the scripted model counts: not a token goes over
            assert bank.most[WAITING][0] <= MAX_TOKENS
            assert bank.most[FAILING][1] <= MAX_USD
            # what is left would not have been enough for another step
            assert bank.usage(WAITING)["tokens"] > MAX_TOKENS * 0.9
            assert bank.usage(FAILING)["usd"] > MAX_USD * Decimal("0.9")

            bank.connection.execute(
                "update agent_budgets set max_tokens = 10000000 where scope_key = %s", [WAITING]
            )
            await until_all(fleet, bank, "completed", "failed BUDGET_EXCEEDED")
            bank.balance()
            print(assert_nothing_lost(stack.database_url, bank.runs, thrown=fleet.thrown))
