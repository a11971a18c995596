"""Nobody becomes somebody else, nobody writes what only functions may, and nobody learns what is not theirs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cast import Cast, Vault, called
from postgrest import APIError

REFUSED = "42501"
OUTSIDERS = ("anon", "colleague", "stranger", "other_reviewer")


@pytest.fixture
def http(cast: Cast) -> Callable[[str], httpx.Client]:
    """Plain HTTP as a caller: what no client library would send."""

    def client(caller: str) -> httpx.Client:
        headers = {"apikey": cast.key(caller), "authorization": f"Bearer {cast.token(caller)}"}
        return httpx.Client(base_url=f"{cast.stack.url}/rest/v1", headers=headers)

    return client


def code_of(ask: Callable[[], Any]) -> str:
    with pytest.raises(APIError) as caught:
        ask()
    return str(caught.value.code)


# ---------------------------------------------------------------------------------------------------- who one is


def test_nobody_gives_themselves_a_tenant(cast: Cast, vault: Vault) -> None:
    """What people say about themselves at the sign-up, or later, is user_metadata: no tenant, no role."""
    forged = {
        "tenant_id": "acme",
        "app_metadata": {"tenant_id": "acme"},
        "role": "service_role",
        "provider": "x",
    }
    outsider = cast.join("outsider", **forged)
    outsider.client.auth.update_user({"data": {**forged, "again": True}})
    app_metadata = vault.world.one("select raw_app_meta_data from auth.users where id = %s", outsider.id)
    assert "tenant_id" not in app_metadata
    outsider.client.auth.refresh_session()
    run = {"agent_type": "vault", "input_data": {}}
    by_insert: Any = outsider.client.table("agent_executions").insert(run).execute().data[0]
    by_function: Any = outsider.client.rpc("agent_submit", run).execute().data
    by_service: Any = (
        cast.clients["service"].rpc("agent_submit", {**run, "user_id": outsider.id}).execute().data
    )
    assert [r["tenant_id"] for r in (by_insert, by_function, by_service)] == [None] * 3
    assert outsider.client.table("agent_reviews").select("*").execute().data == []
    vault.tidied()


def test_sign_up_can_not_name_an_id_a_role_or_app_metadata(cast: Cast) -> None:
    owner = cast.id_of("owner")
    body = {
        "email": f"{uuid.uuid4()}@example.org",
        "password": "a long passphrase",
        "id": owner,
        "role": "service_role",
        "aud": "service_role",
        "is_super_admin": True,
        "app_metadata": {"tenant_id": "acme"},
        "raw_app_meta_data": {"tenant_id": "acme"},
    }
    headers = {"apikey": cast.stack.publishable_key}
    made = httpx.post(f"{cast.stack.url}/auth/v1/signup", json=body, headers=headers).json()
    assert made["user"]["id"] != owner
    assert made["user"]["role"] == "authenticated"
    assert "tenant_id" not in made["user"]["app_metadata"]
    bearer = {**headers, "authorization": f"Bearer {made['access_token']}"}
    changed = {"app_metadata": {"tenant_id": "acme"}, "role": "service_role"}
    httpx.put(f"{cast.stack.url}/auth/v1/user", json=changed, headers=bearer)
    after = httpx.get(f"{cast.stack.url}/auth/v1/user", headers=bearer).json()
    assert "tenant_id" not in after["app_metadata"]
    assert after["role"] == "authenticated"


def test_runs_carry_the_tenant_of_the_token(cast: Cast, vault: Vault) -> None:
    for name, tenant in (("owner", "acme"), ("stranger", "globex")):
        run: Any = (
            cast.clients[name].table("agent_executions").select("*").eq("id", vault.runs[name]).execute().data
        )
        assert run[0]["tenant_id"] == tenant


@pytest.mark.parametrize(
    "column",
    [
        {"id": str(uuid.uuid4())},
        {"tenant_id": "globex"},
        {"status": "completed"},
        {"result": {}},
        {"state": {}},
        {"error": "x"},
        {"step_count": 0},
        {"token_count": 0},
        {"fence": 9},
        {"attempt": 0},
        {"worker_id": None},
        {"allowance": {"max_steps": 1000}},
        {"priority": 100},
        {"forked_from": None},
        {"created_at": "2020-01-01"},
        {"cost_usd": -1},
    ],
    ids=lambda column: next(iter(column)),
)
def test_state_is_not_for_clients_to_write(cast: Cast, vault: Vault, column: dict[str, Any]) -> None:
    """Not in an insert, not in an update, not as an upsert of what exists, and not for the owner."""
    table = cast.clients["owner"].table("agent_executions")
    row = {"agent_type": "vault", "input_data": {}, **column}
    existing = {"id": vault.runs["owner"], **row}
    assert code_of(lambda: table.insert(row).execute()) == REFUSED
    assert code_of(lambda: table.upsert(existing).execute()) == REFUSED
    assert code_of(lambda: table.upsert(existing, ignore_duplicates=True).execute()) == REFUSED
    assert code_of(lambda: table.update(column).eq("id", vault.runs["owner"]).execute()) == REFUSED


def test_an_id_can_not_be_tried(cast: Cast, vault: Vault) -> None:
    """A unique violation would tell that somebody's row exists: the same refusal for both."""
    for caller in OUTSIDERS:
        table = cast.clients[caller].table("agent_executions")
        refusals: list[dict[str, Any]] = []
        for run_id in (vault.runs["owner"], str(uuid.uuid4())):
            with pytest.raises(APIError) as caught:
                table.insert({"id": run_id, "agent_type": "vault", "input_data": {}}).execute()
            refusals.append(caught.value.json())
        assert refusals[0] == refusals[1]
        assert refusals[0]["code"] == REFUSED


# ------------------------------------------------------------------------------------------ what one may learn


@pytest.mark.parametrize(
    "path",
    [
        "/agent_executions?id=eq.{run}",
        "/agent_executions?or=(id.eq.{run},status.eq.awaiting_review)",
        "/agent_executions?not.and=(id.is.null)",
        "/agent_executions?input_data->>secret=like.*",
        "/agent_executions?select=input_data->secret&order=input_data->secret",
        "/agent_executions?select=n:id.count()",
        "/agent_executions?select=*,agent_steps(*)&id=eq.{run}",
        "/agent_types?select=name,agent_executions(*)&name=eq.vault",
        "/agent_types?select=name,agent_executions!inner(id)&name=eq.vault",
        "/agent_steps?execution_id=eq.{run}",
        "/agent_tool_calls?select=*,agent_executions(*)&execution_id=eq.{run}",
        "/agent_tool_calls?select=id,agent_executions!inner(id)&agent_executions.id=eq.{run}",
        "/agent_reviews?select=*,agent_executions(*)&id=eq.{review}",
        "/agent_reviews?or=(status.eq.pending,status.eq.approved)",
        "/agent_review_decisions?execution_id=eq.{run}",
        "/agent_events?execution_id=eq.{run}",
        "/agent_messages?execution_id=eq.{run}",
    ],
)
def test_no_question_finds_what_is_not_ones_own(
    vault: Vault, http: Callable[[str], httpx.Client], path: str
) -> None:
    """Not by its id, a filter, an aggregate, an embedded table or the count in a header."""
    asked = path.format(run=vault.runs["owner"], review=vault.reviews["owner"])
    hidden = (vault.runs["owner"], vault.reviews["owner"], vault.cast.id_of("owner"), "of owner")
    for caller in OUTSIDERS:
        with http(caller) as client:
            for prefer in ("count=exact", "count=planned", "count=estimated"):
                answer = client.get(asked, headers={"prefer": prefer})
                assert not any(word in answer.text for word in hidden), (caller, answer.text)
                if caller == "stranger" or answer.status_code >= 400 or "count()" in path:
                    continue  # has a run of their own, which may well be counted
                if prefer == "count=exact" and not asked.startswith("/agent_types"):
                    assert answer.headers["content-range"].endswith("/0"), (caller, answer.text)
                assert answer.json() in ([], [{"name": "vault", "agent_executions": []}]), caller


@pytest.mark.parametrize("table", ["agent_types", "agent_definitions", "agent_workers", "agent_budgets"])
def test_operators_settings_are_not_found_by_filters(
    vault: Vault, http: Callable[[str], httpx.Client], table: str
) -> None:
    """A filter on a column that one may not read would tell its value, bit by bit."""
    column = {"agent_types": "max_concurrent", "agent_definitions": "instructions"}.get(table, "id")
    shown = "name" if table == "agent_types" else "*"
    with http("owner") as client:
        for query in (
            f"{column}=not.is.null",
            f"or=({column}.is.null,{column}.not.is.null)",
            f"order={column}",
        ):
            answer = client.get(f"/{table}?select={shown}&{query}")
            assert (answer.status_code, answer.json()["code"]) == (403, REFUSED), query
        embedded = client.get("/agent_types?select=name,agent_definitions(instructions)")
        assert embedded.status_code >= 400
        assert "Write." not in embedded.text


def test_writes_tell_nothing_about_rows_of_others(vault: Vault, http: Callable[[str], httpx.Client]) -> None:
    """A decision about a review that one may not see finds nothing, whether it exists or not."""
    for caller in ("colleague", "stranger", "other_reviewer"):
        with http(caller) as client:
            answers = [
                client.patch(
                    f"/agent_reviews?id=eq.{review}",
                    json={"status": "approved"},
                    headers={"prefer": "return=representation, count=exact"},
                )
                for review in (vault.reviews["owner"], str(uuid.uuid4()))
            ]
            said = [
                (answer.status_code, answer.text, answer.headers.get("content-range")) for answer in answers
            ]
            assert said[0] == said[1]
            assert answers[0].json() == []


# --------------------------------------------------------------------------------------- who is appointed, and when


def test_an_appointment_and_its_end_take_effect_at_once(cast: Cast, vault: Vault) -> None:
    """In the very token that the person has: nothing of it is in the token."""
    client, person = cast.clients["colleague"], cast.id_of("colleague")
    review = {"review_id": vault.reviews["owner"]}

    def sees() -> tuple[int, bool]:
        rows = client.table("agent_reviews").select("id").execute().data
        return len(rows), called(cast, "colleague", "agent_review_context", review).kind != "RH015"

    assert sees() == (0, False)
    vault.world.appoint(person, tenant_id="acme", agent_type="vault", tool_name="send")
    assert sees() == (1, True)
    vault.world.sql("update runhold.reviewers set tool_name = 'save' where user_id = %s", person)
    assert sees() == (1, False)
    vault.world.sql("update runhold.reviewers set tenant_id = 'globex' where user_id = %s", person)
    assert sees() == (1, False)  # the stranger's
    vault.world.sql("delete from runhold.reviewers where user_id = %s", person)
    assert sees() == (0, False)
    assert client.table("agent_reviews").update({"status": "approved"}).eq(
        "id", vault.reviews["owner"]
    ).execute().data == []  # fmt: skip


def test_reviewers_see_the_run_behind_a_review_and_nothing_else(cast: Cast, vault: Vault) -> None:
    client = cast.clients["reviewer"]
    context: Any = client.rpc("agent_review_context", {"review_id": vault.reviews["owner"]}).execute().data
    assert context["run"]["input_data"] == {"secret": "of owner"}
    for table in ("agent_executions", "agent_steps", "agent_tool_calls", "agent_events", "agent_messages"):
        assert client.table(table).select("*").execute().data == [], table
    foreign = {"review_id": vault.reviews["stranger"]}
    assert code_of(lambda: client.rpc("agent_review_context", foreign).execute()) == "RH015"


def test_the_decision_is_the_reviewers_alone(cast: Cast, vault: Vault) -> None:
    """The owner may not approve their own run, the service is nobody; a forged reviewer_id is no column to write."""
    owners = cast.clients["owner"].table("agent_reviews")
    review = vault.reviews["owner"]
    assert code_of(lambda: owners.update({"status": "approved"}).eq("id", review).execute()) == "RH009"
    by_service = cast.clients["service"].table("agent_reviews").update({"status": "approved"})
    assert code_of(lambda: by_service.eq("id", review).execute()) == REFUSED
    forged = {"status": "approved", "reviewer_id": cast.id_of("operator")}
    by_reviewer = cast.clients["reviewer"].table("agent_reviews").update(forged)
    assert code_of(lambda: by_reviewer.eq("id", review).execute()) == REFUSED
    decided = cast.clients["reviewer"].table("agent_reviews").update({"status": "approved"})
    row: Any = decided.eq("id", review).execute().data[0]
    assert (row["status"], row["reviewer_id"]) == ("approved", cast.id_of("reviewer"))
