"""agent_export: everything of a run as texts, for its user and the service; what agents are told, for the service alone."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import DEFINITION, Row, World, call, question, refused, result, step

from runhold.audit import seal, verify

KINDS = ["execution", "definition", "step", "tool_call", "review", "decision", "message", "event"]

HIDDEN = ["instructions", "params", "tools"]


def told(world: World) -> tuple[str, str]:
    """A run with a row of every kind: its user and its id."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition, injected=[{"role": "user", "content": "Hurry."}])],
        calls=[call(1, 0, "look", "read", "running"), call(1, 1, "send", "unsafe", "awaiting_review")],
        reviews=[question(1, 1)],
    )
    worker.record(run, results=[result(1, 0, output={"found": None})], transition={"to": "awaiting_review"})
    world.user(user, "select agent_send(%s, 'Ünïcödé 🦀')", run["id"])
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], comment="Yes.")
    return user, run["id"]


def rows_of(export: Row, kind: str) -> list[dict[str, Any]]:
    return [record["row"] for record in map(json.loads, export["records"]) if record["kind"] == kind]


def test_export_holds_every_row_of_the_run_whole(world: World) -> None:
    _, run_id = told(world)
    export = world.service("select agent_export(%s)", run_id)
    assert export["execution_id"] == run_id
    assert export["exported_by"] == {"kind": "service"}
    assert list(dict.fromkeys(json.loads(record)["kind"] for record in export["records"])) == KINDS
    tables = {
        "execution": "agent_executions",
        "definition": "agent_definitions",
        "decision": "agent_review_decisions",
    }
    for kind in KINDS:
        table = tables.get(kind, f"agent_{kind}s")
        where = {"execution": "id = %(id)s", "definition": "id in (select definition_id from agent_steps)"}
        with world.connection.cursor() as cursor:
            cursor.execute("set timezone = 'UTC'")
            cursor.execute(
                f"select to_jsonb(t) as row from {table} t where {where.get(kind, 'execution_id = %(id)s')}",
                {"id": run_id},
            )
            stored = [row["row"] for row in cursor.fetchall()]
        assert stored
        assert sorted(rows_of(export, kind), key=str) == sorted(stored, key=str), kind


def test_every_table_of_a_run_is_in_it(world: World) -> None:
    """A new table that hangs below a run needs its place in the export."""
    tables = {
        row["t"]
        for row in world.sql(
            "select conrelid::regclass::text as t from pg_constraint where contype = 'f'"
            " and confrelid = 'agent_executions'::regclass and conrelid <> confrelid"
        )
    }
    body = world.one("select prosrc from pg_proc where oid = 'runhold.export(uuid)'::regprocedure")
    tables.remove("runhold.kept_claims")  # of a token, for signing others: no part of what happened
    assert {table for table in tables if f"from public.{table} " not in body} == set()


def test_times_are_utc_wherever_it_is_asked(world: World) -> None:
    _, run_id = told(world)
    world.sql("set timezone = 'Asia/Kolkata'")
    export = world.service("select agent_export(%s)", run_id)
    assert export["exported_at"].endswith("+00:00")
    assert rows_of(export, "execution")[0]["created_at"].endswith("+00:00")


def test_numbers_and_texts_are_as_they_are_stored(world: World) -> None:
    world.worker()
    number, text = "12345678901234567890.123456789012345678901", 'Ünï "\\ \n \u2028 🦀'
    user = world.person()
    run_id = world.submit(user)
    world.sql(
        "update agent_executions set input_data = jsonb_build_object('n', %s::numeric, 't', %s::text) where id = %s",
        number,
        text,
        run_id,
    )
    export = world.user(user, "select agent_export(%s)", run_id)[0]["agent_export"]
    (execution,) = [
        json.loads(record, parse_float=Decimal)["row"]
        for record in export["records"]
        if '"execution"' in record
    ]
    assert execution["input_data"] == {"n": Decimal(number), "t": text}


def test_owners_get_all_but_what_the_agent_is_told(world: World) -> None:
    user, run_id = told(world)
    whole = world.service("select agent_export(%s)", run_id)
    export = world.user(user, "select agent_export(%s)", run_id)[0]["agent_export"]
    assert export["exported_by"] == {"kind": "owner", "id": user}
    for each in KINDS:
        if each != "definition":
            assert rows_of(export, each) == rows_of(whole, each)
    (definition,), (full,) = rows_of(export, "definition"), rows_of(whole, "definition")
    assert definition == {name: full[name] for name in full if name not in HIDDEN} | {"withheld": HIDDEN}
    assert full["instructions"] == "Write."


@pytest.mark.parametrize("who", ["stranger", "reviewer", "operator"])
def test_others_are_refused_as_if_there_were_no_such_run(world: World, who: str) -> None:
    _, run_id = told(world)
    other = world.person() if who == "stranger" else world.reviewer(role=who)
    with refused("RH006", says="no such run, or it is not yours"):
        world.user(other, "select agent_export(%s)", run_id)
    with refused("RH006", says="no such run, or it is not yours"):
        world.user(other, "select agent_export(gen_random_uuid())")


NASTY = {
    "zz": 1,
    "é": "Ünï \u2028 🦀 \x7f \x01 \t\n\r\b\f \\ / \"",
    "b": [1.50, 1e30, 1e-7, -0.0, 0.1, True, None, {}, []],
    "aaa": {"🦀": 1, "ab": 2, "é": 3, "": 4, "A": 5},
}  # fmt: skip


def test_an_auditor_makes_the_hashes_of_questions_anew(world: World) -> None:
    """``runhold.audit`` builds the very text that ``runhold.input_hash`` hashes, however the arguments are written."""
    tools = [{**tool, "parameters": {"type": "object", "é": NASTY}} for tool in DEFINITION["tools"]]
    worker, reviewer, user = world.worker({**DEFINITION, "tools": tools}), world.reviewer(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[
            call(1, 0, "send", "unsafe", "awaiting_review", input=NASTY),
            call(1, 1, "send", "unsafe", "awaiting_review", input={"n": 1}),
            call(1, 2, "unheard_of", "unsafe", "awaiting_review"),
        ],
        reviews=[question(1, 0), question(1, 1), question(1, 2)],
    )
    worker.end(run, "awaiting_review")
    first, second, third = world.open_reviews(run["id"])
    world.decide(reviewer, first["id"])
    world.decide(reviewer, second["id"], edited_input=Jsonb(NASTY))
    world.decide(reviewer, third["id"], "rejected", comment="Never heard of it.")
    (again,) = worker.claim()
    worker.record(again, starts=[{"step_number": 1, "position": position} for position in (0, 1)])

    export = world.service("select agent_export(%s)", run["id"])
    report = verify(seal({}, export["records"]).content)
    assert report.findings == ()
    assert (report.hashes_checked, report.hashes_unchecked, report.approvals_checked) == (3, 0, 2)

    theirs = world.user(user, "select agent_export(%s)", run["id"])[0]["agent_export"]
    report = verify(seal({}, theirs["records"]).content)
    assert (report.findings, report.hashes_checked, report.hashes_unchecked) == ((), 0, 3)


def test_the_owner_of_the_database_is_found_out_when_they_change_a_call(world: World) -> None:
    _, run_id = told(world)
    world.sql(
        'update agent_reviews set proposed_input = \'{"to": "somebody else"}\' where execution_id = %s',
        run_id,
    )
    report = verify(seal({}, world.service("select agent_export(%s)", run_id)["records"]).content)
    assert "did not ask about what it shows" in report.findings[0].text
