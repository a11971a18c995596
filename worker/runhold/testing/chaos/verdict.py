"""What became of the runs: nothing lost, nothing twice, and nothing that stands still for ever.

The database says what it believes, the effects table what happened; a verdict is every place where they, or the
database and the rules, do not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from runhold.testing.chaos.effects import Effect, Effects
from runhold.testing.chaos.rules import CALLS, READS, RULES

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that must not be.

    :ivar rule: what must not be; ``what``: what it is here.
    """

    rule: str
    run: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what} (run {self.run})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the runs. As a text it is a table.

    :ivar statuses: how many runs are in which status.
    :ivar effects: how many effects of each kind were asked for.
    :ivar thrown: what was done to the workers.
    :ivar problems: what must not be; empty if nothing was lost, and nothing done twice.
    """

    statuses: Counter[str]
    effects: Counter[str]
    problems: Sequence[Problem]
    thrown: Mapping[str, int] = field(default_factory=dict[str, int])

    def __str__(self) -> str:
        rows = [
            *((f"thrown: {name}", count) for name, count in sorted(self.thrown.items())),
            *((f"runs {name}", count) for name, count in sorted(self.statuses.items())),
            *((f"effects asked for: {name}", count) for name, count in sorted(self.effects.items())),
            ("lost, doubled or stuck", len(self.problems)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {count:>6}" for name, count in rows]
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def judge(
    database_url: str,
    runs: Iterable[str],
    effects: Effects | None = None,
    *,
    ended: bool = True,
    thrown: Mapping[str, int] | None = None,
) -> Verdict:
    """Look at ``runs`` in the database, and at what they did outside.

    :param database_url: PostgreSQL's, of a role that reads every row (:attr:`LocalStack.database_url`).
    :param effects: what happened; without it only the database is looked at.
    :param ended: whether every run must have ended by now; else it must only be able to.
    :param thrown: what was done to the workers, for the table.
    """
    ids = [*runs]
    with psycopg.connect(database_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        # one snapshot: what changes meanwhile is not half seen
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def rows(query: LiteralString) -> list[Row]:
            return cursor.execute(query, {"runs": ids}).fetchall()

        present = rows(
            "select id, status, completed_at from agent_executions where id = any (%(runs)s::uuid[])"
        )
        problems = [
            Problem(rule=rule, run=str(row["run"]), what=row["what"])
            for rule, query in RULES.items()
            for row in rows(query)
        ]
        calls = rows(CALLS)
        reads = {row["name"] for row in rows(READS)}
    if ended:
        problems += [
            Problem(rule="a run that has not ended", run=str(row["id"]), what=row["status"])
            for row in present
            if row["completed_at"] is None
        ]
    statuses = Counter(str(row["status"]) for row in present)
    counts: Counter[str] = Counter()
    if effects is not None:
        happened = [effect for effect in effects.all() if effect.run in set(ids)]
        for effect in happened:
            counts[effect.kind] += effect.times
        problems += _misfits(calls, reads, happened)
    return Verdict(statuses=statuses, effects=counts, problems=problems, thrown=thrown or {})


def assert_nothing_lost(
    database_url: str,
    runs: Iterable[str],
    effects: Effects | None = None,
    *,
    ended: bool = True,
    thrown: Mapping[str, int] | None = None,
) -> Verdict:
    """As :func:`judge`.

    :raises AssertionError: with the table, if there is any problem.
    """
    verdict = judge(database_url, runs, effects, ended=ended, thrown=thrown)
    if verdict.problems:
        raise AssertionError(f"Something was lost, or happened twice:\n{verdict}")
    return verdict


def _misfits(calls: Sequence[Row], reads: Set[str], happened: Sequence[Effect]) -> list[Problem]:
    """Where the effects do not fit what the database says about the calls."""
    by_call: dict[tuple[str, int, int], list[Effect]] = {}
    for effect in happened:
        by_call.setdefault((effect.run, *effect.call), []).append(effect)
    kinds = {effect.kind for effect in happened}
    found: list[Problem] = []
    for call in calls:
        effects = by_call.pop((call["run"], call["step_number"], call["position"]), [])
        found += [
            Problem(
                rule=rule, run=call["run"], what=f"{call['tool_name']}, step {call['step_number']}: {what}"
            )
            for rule, what in _of_call(call, effects, counted=call["tool_name"] in kinds)
        ]
    found += [
        Problem(rule="an effect without a call", run=run, what=f"step {step}, position {position}")
        for (run, step, position), effects in by_call.items()
        if any(effect.kind not in reads for effect in effects)
    ]
    return found


def _of_call(call: Row, effects: Sequence[Effect], *, counted: bool) -> Iterable[tuple[str, str]]:
    times = sum(effect.times for effect in effects)
    if call["effect"] != "read" and len(effects) > 1:
        yield "a call with more than one key", ", ".join(effect.key for effect in effects)
    if call["effect"] == "unsafe" and times > 1 + call["again"]:
        yield "an unsafe effect more often than people said", f"{times} times, again {call['again']}"
    if times and call["asked"] and not call["used"]:
        yield "an effect without an approval", f"{times} times"
    if times and not call["doubted"] and call["status"] in ("awaiting_review", "rejected"):
        yield "an effect of a call that was not made", f"{times} times, the call is {call['status']}"
    if counted and not times and call["status"] == "succeeded" and not call["said_so"]:
        yield "an effect that is said to have happened and did not", call["tool_name"]
