"""Every function of the API × every caller: who gets an answer, who is refused, and that a refusal tells nothing.

What is called is the owner's run or review. Where a stranger is refused they are refused in the same words whether the
row exists or not. A new function fails until it has its line.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from cast import CALLERS, NOTHING, SIGNED_IN, Cast, Vault, called

SERVICE = "service"
WORKERS = "service worker"
REFUSED = "42501"

Arguments = Callable[[Vault], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Function:
    """``answers``: who gets something. The others who may call get ``otherwise``; who may not, a 42501.

    :ivar callable_by: who may execute it at all.
    :ivar target: the argument that names somebody's row, if there is one.
    """

    answers: str
    arguments: Arguments
    otherwise: str = REFUSED
    callable_by: str = " ".join([*SIGNED_IN, SERVICE])
    target: str = ""


def workers_only(arguments: Arguments = lambda _: {}) -> Function:
    return Function(answers=WORKERS, arguments=arguments, callable_by=WORKERS)


def about_the_run(answers: str, otherwise: str = "RH006", **more: Any) -> Function:
    return Function(
        answers=answers,
        arguments=lambda vault: {"execution_id": vault.runs["owner"], **more},
        otherwise=otherwise,
        target="execution_id",
    )


FUNCTIONS = {
    "agent_submit": Function(
        answers="owner service",
        arguments=lambda vault: {
            "agent_type": "vault",
            "input_data": {},
            "user_id": vault.cast.id_of("owner"),
        },
    ),
    "agent_cancel": about_the_run("owner operator service"),
    # those who may steer are told why not; the run waits for a review
    "agent_retry": about_the_run("RH018: owner operator service"),
    "agent_fork": about_the_run("owner operator service", from_step=1),
    "agent_send": about_the_run("owner operator service", content="hello"),
    "agent_export": about_the_run("owner service"),
    "agent_timeline": about_the_run("owner reviewer operator service", NOTHING),
    "agent_review_context": Function(
        answers="owner reviewer operator service",
        arguments=lambda vault: {"review_id": vault.reviews["owner"]},
        otherwise="RH015",
        target="review_id",
    ),
    "agent_health_metrics": Function(
        answers="owner stranger service", arguments=lambda _: {"agent_type": "vault"}, otherwise=NOTHING
    ),
    # a verdict per row; it decides nothing, as there is no such decision
    "agent_decide": Function(
        answers="RH011: owner reviewer operator",
        arguments=lambda vault: {"ids": [vault.reviews["owner"]], "status": "maybe"},
        otherwise="RH015",
        callable_by=" ".join(SIGNED_IN),
        target="ids",
    ),
    # operators of all tenants only, and nobody of the cast is one
    "agent_disable": Function(
        answers=SERVICE, arguments=lambda _: {"agent_type": "vault"}, otherwise="RH021", target="agent_type"
    ),
    "agent_enable": Function(
        answers=SERVICE, arguments=lambda _: {"agent_type": "vault"}, otherwise="RH021", target="agent_type"
    ),
    "agent_worker_register": workers_only(
        lambda _: {
            "worker": {"id": str(uuid.uuid4()), "hostname": "h", "pid": 1, "version": "0", "lease_ms": 1000},
            "definitions": [],
        }
    ),
    "agent_installation": workers_only(),
    "agent_worker_prices": workers_only(lambda _: {"models": []}),
    "agent_worker_definitions": workers_only(lambda _: {"ids": []}),
    "agent_worker_claim": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "seq": 100, "definitions": {}, "n": 1}
    ),
    "agent_worker_log": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "execution_id": vault.runs["owner"], "fence": 1}
    ),
    "agent_worker_user_claims": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "execution_id": vault.runs["owner"], "fence": 1}
    ),
    "agent_worker_record": workers_only(lambda vault: {"worker_id": vault.worker_id, "entries": []}),
    "agent_worker_heartbeat": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "held": [], "last_seq": 0}
    ),
    "agent_worker_release": workers_only(lambda vault: {"worker_id": vault.worker_id, "executions": []}),
    "agent_worker_stop": workers_only(lambda vault: {"worker_id": vault.worker_id, "draining": False}),
    "agent_worker_notifications": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "n": 0, "channels": ["webhook"]}
    ),
    "agent_worker_notified": workers_only(
        lambda vault: {"worker_id": vault.worker_id, "id": str(uuid.uuid4())}
    ),
    "agent_sweep": workers_only(),
    "agent_prune": Function(
        answers=SERVICE, arguments=lambda _: {"older_than": "90 days"}, callable_by=SERVICE
    ),
}
LAST = ("agent_cancel", "agent_worker_stop")
"""They end what the others need."""


def expected(function: Function, caller: str) -> str:
    code, colon, names = function.answers.rpartition(": ")
    if caller in names.split():
        return code if colon else "answer"
    return function.otherwise if caller in function.callable_by.split() else REFUSED


@pytest.mark.parametrize("name", sorted(FUNCTIONS, key=lambda name: (name in LAST, name)))
def test_who_gets_an_answer(cast: Cast, vault: Vault, name: str) -> None:
    function = FUNCTIONS[name]
    outcomes: dict[str, str] = {}
    for caller in CALLERS:
        found, must = called(cast, caller, name, function.arguments(vault)).kind, expected(function, caller)
        if found != must and not (must == "answer" and found == NOTHING and function.callable_by == WORKERS):
            outcomes[caller] = f"{found}, not {must}"
    assert not outcomes


@pytest.mark.parametrize("name", sorted(name for name, function in FUNCTIONS.items() if function.target))
def test_refusals_are_the_same_for_rows_that_do_not_exist(cast: Cast, vault: Vault, name: str) -> None:
    function = FUNCTIONS[name]
    arguments = function.arguments(vault)
    nobodys = {"agent_type": "nowhere", "ids": [str(uuid.uuid4())]}
    nowhere = arguments | {function.target: nobodys.get(function.target, str(uuid.uuid4()))}
    for caller in ("anon", "colleague", "stranger", "other_reviewer", "worker"):
        assert called(cast, caller, name, arguments) == called(cast, caller, name, nowhere), caller


def test_whoever_has_a_workers_token_can_be_shut_out_at_once(cast: Cast, vault: Vault) -> None:
    vault.world.sql("revoke runhold_worker from authenticator")
    try:
        assert called(cast, "worker", "agent_sweep", {}).kind == REFUSED
    finally:
        vault.world.sql("grant runhold_worker to authenticator")
    assert called(cast, "worker", "agent_sweep", {}).kind == "answer"


def test_every_function_has_its_line(vault: Vault) -> None:
    functions = vault.world.sql(
        "select p.proname, p.pronargs from pg_proc p where p.pronamespace = 'public'::regnamespace order by 1"
    )
    assert [row["proname"] for row in functions] == sorted(FUNCTIONS)


def test_functions_of_the_inner_schema_can_not_be_called(cast: Cast, vault: Vault) -> None:
    inner = vault.world.sql(
        "select distinct proname from pg_proc where pronamespace = 'runhold'::regnamespace order by 1"
    )
    reached: list[tuple[str, str, Any]] = []
    for caller in ("owner", "operator", "worker", "service"):
        headers = {"apikey": cast.key(caller), "authorization": f"Bearer {cast.token(caller)}"}
        with httpx.Client(base_url=f"{cast.stack.url}/rest/v1/rpc", headers=headers) as http:
            for index, row in enumerate(inner):
                name = row["proname"]
                schemas = [("public", "PGRST202")] if caller == "service" or index < 3 else []
                if index < 3:  # the schema is refused whatever is in it
                    schemas.append(("runhold", "PGRST106"))
                for schema, code in schemas:
                    answer = http.post(f"/{name}", json={}, headers={"content-profile": schema})
                    if answer.json()["code"] != code:
                        reached.append((caller, name, answer.json()))
    assert not reached


def test_keys_of_others_are_nobodys_business(cast: Cast, vault: Vault) -> None:
    """An idempotency key is a name within one user's runs: others neither get the run nor learn of it."""
    arguments = {"agent_type": "vault", "input_data": {}, "idempotency_key": "order 7"}
    theirs = cast.clients["owner"].rpc("agent_submit", arguments).execute().data
    mine = cast.clients["colleague"].rpc("agent_submit", arguments).execute().data
    assert theirs["id"] != mine["id"]
    assert mine["user_id"] == cast.id_of("colleague")
    inserted = cast.clients["stranger"].table("agent_executions").insert(arguments).execute().data
    assert inserted[0]["id"] not in (theirs["id"], mine["id"])
    # asking for the owner's by name: the same words for a key that the owner used and one that nobody did
    asked = [
        called(
            cast,
            "colleague",
            "agent_submit",
            {**arguments, "idempotency_key": key, "user_id": cast.id_of("owner")},
        )
        for key in ("order 7", "order 8")
    ]
    assert asked[0] == asked[1]
    assert asked[0].kind == REFUSED
    vault.tidied()


def test_metrics_of_others_runs_are_not_shown(cast: Cast) -> None:
    for caller in ("colleague", "reviewer", "other_reviewer", "operator"):
        metrics = cast.clients[caller].rpc("agent_health_metrics", {}).execute().data
        assert metrics["runs"] == 0, caller
        assert metrics["queue"]["depth"] == 0, caller
        assert metrics["tools"]["by_tool"] == {}, caller
        assert metrics["runs_by_status"] == {}, caller
