"""Requests that nobody means well: each gets one clear refusal, nothing is stored, and the servers live on."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import jwt
import pytest
from cast import Cast, Vault
from realtime_stack import RawSocket

INJECTION = "'; drop table agent_executions; -- ') or 1=1 /* \" $1 %s {} ${x} \\"
DEEP = "[" * 20_000 + "]" * 20_000
NUL = '"a\\u0000b"'
NUL_CODES = "22021 22P05"
"""The server's refusal, depending on who reads the JSON: the API or the database."""
HALF_A_PAIR = '"\\ud800"'


@pytest.fixture
def owner(cast: Cast) -> Iterator[httpx.Client]:
    headers = {
        "apikey": cast.stack.publishable_key,
        "authorization": f"Bearer {cast.token('owner')}",
        "content-type": "application/json",
    }
    with httpx.Client(base_url=f"{cast.stack.url}/rest/v1", headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_is_stored_and_all_live(cast: Cast, vault: Vault) -> Iterator[None]:
    """The runs are those that were there, and everybody is still answered."""
    yield
    assert vault.world.one("select count(*) from agent_executions") == len(vault.runs)
    assert cast.clients["owner"].table("agent_executions").select("id").execute().data
    assert httpx.get(
        f"{cast.stack.url}/auth/v1/health", headers={"apikey": cast.stack.publishable_key}
    ).is_success


# ------------------------------------------------------------------------------------------------------- tokens


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def forged_tokens(cast: Cast) -> dict[str, str]:
    """The owner's claims, as none but the project could sign them."""
    secret = cast.stack.env()["SUPABASE_JWT_SECRET"]
    now = int(time.time())
    claims = {"sub": cast.id_of("owner"), "role": "authenticated", "aud": "authenticated", "exp": now + 600}
    header, payload, signature = jwt.encode(claims, secret).split(".")
    service = {**claims, "role": "service_role"}
    return {
        "signed by another key": jwt.encode(claims, "x" * 64),
        "service_role, signed by another key": jwt.encode(service, "x" * 64),
        "signed by the publishable key": jwt.encode(service, cast.stack.publishable_key.ljust(32, "x")),
        "not signed": f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        "not signed, says it is": f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{payload}.{signature}",
        "another algorithm in the header": f"{encoded({'alg': 'RS256', 'typ': 'JWT'})}.{payload}.{signature}",
        "claims changed after signing": f"{header}.{encoded(service)}.{signature}",
        "signature cut": f"{header}.{payload}.{signature[:-8]}",
        "expired": jwt.encode({**claims, "exp": now - 60}, secret),
        "expired, service_role": jwt.encode({**service, "exp": now - 60}, secret),
        "no token": "eyJ.eyJ.x",
        "a key of another project": "sb_secret_0123456789abcdef",
    }


async def test_forged_and_expired_tokens_open_nothing(cast: Cast, vault: Vault) -> None:
    base, key = cast.stack.url, cast.stack.publishable_key
    opened: list[tuple[str, str, Any]] = []
    async with aiohttp.ClientSession() as sockets, httpx.AsyncClient(base_url=base) as http:
        for name, token in forged_tokens(cast).items():
            headers = {"apikey": key, "authorization": f"Bearer {token}"}
            asked = {
                "table": await http.get("/rest/v1/agent_executions?select=id", headers=headers),
                "function": await http.post("/rest/v1/rpc/agent_health_metrics", json={}, headers=headers),
                "submit": await http.post(
                    "/rest/v1/rpc/agent_submit",
                    json={"agent_type": "vault", "input_data": {}, "user_id": cast.id_of("owner")},
                    headers=headers,
                ),
                "user": await http.get("/auth/v1/user", headers=headers),
                "as key": await http.get("/rest/v1/agent_executions?select=id", headers={"apikey": token}),
            }
            for what, answer in asked.items():
                if answer.status_code not in (400, 401, 403) or vault.runs["owner"] in answer.text:
                    opened.append((name, what, (answer.status_code, answer.text)))
            ws = await sockets.ws_connect(
                f"{base}/realtime/v1/websocket", params={"vsn": "2.0.0", "apikey": key}
            )
            socket = RawSocket(ws, "2.0.0")
            reply = await socket.join(f"execution:{vault.runs['owner']}", token=token, private=True)
            if reply["status"] != "error":
                opened.append((name, "topic", reply))
            await ws.close()
    assert opened == []


# ------------------------------------------------------------------------------------------------------- bodies

TOO_LARGE = json.dumps("x" * 300_000)
BODIES = {
    # what is sent → the refusal. Messages of PostgreSQL for what is no JSON it can store, ours for the rest.
    f'{{"agent_type": "vault", "input_data": {{"a": {NUL}}}}}': "22P05",
    f'{{"agent_type": "vault", "input_data": {{"a": {HALF_A_PAIR}}}}}': "22P02",
    f'{{"agent_type": "vault", "input_data": {{"a": {TOO_LARGE}}}}}': "RH003",
    f'{{"agent_type": "vault", "input_data": {{"a": {DEEP}}}}}': "54001",
    '{"agent_type": "vault", "input_data": "{}"}': "RH003",
    '{"agent_type": "vault", "input_data": [1]}': "RH003",
    '{"agent_type": "vault", "input_data": null}': "RH003",
    f'{{"agent_type": {NUL}, "input_data": {{}}}}': NUL_CODES,
    f'{{"agent_type": {json.dumps(INJECTION)}, "input_data": {{}}}}': "RH001",
    f'{{"agent_type": {TOO_LARGE}, "input_data": {{}}}}': "RH001",
    f'{{"agent_type": "vault", "input_data": {{}}, "idempotency_key": {TOO_LARGE}}}': "23514",
    f'{{"agent_type": "vault", "input_data": {{}}, "idempotency_key": {NUL}}}': NUL_CODES,
    '{"agent_type": "vault", "input_data": {}, "idempotency_key": ""}': "23514",
    f'{{"agent_type": "vault", "input_data": {{}}, "metadata": {{"a": {TOO_LARGE}}}}}': "23514",
    f'{{"agent_type": "vault", "input_data": {{}}, "metadata": {DEEP}}}': "54001",
    '{"agent_type": "vault", "input_data": {}, "metadata": [1]}': "23514",
    f'{{"agent_type": "vault", "input_data": {{}}, "limits": {{{json.dumps(INJECTION)}: 1}}}}': "RH004",
    '{"agent_type": "vault", "input_data": {}, "limits": {"max_steps": 1e16}}': "RH004",
    '{"agent_type": "vault", "input_data": {}, "limits": {"max_steps": "1; drop"}}': "RH004",
    f'{{"agent_type": "vault", "input_data": {{}}, "limits": {DEEP}}}': "54001",
    '{"agent_type": "vault", "input_data": {}, "wake_at": "infinity"}': "RH003",
    f'{{"agent_type": "vault", "input_data": {{}}, "wake_at": {json.dumps(INJECTION)}}}': "22007",
    f'{{"agent_type": "vault", "input_data": {{}}, "user_id": {json.dumps(INJECTION)}}}': "22P02",
}


@pytest.mark.parametrize("by", ["insert", "function"])
def test_runs_that_can_not_be(owner: httpx.Client, by: str) -> None:
    found: dict[str, str] = {}
    for body, code in BODIES.items():
        path = "/agent_executions" if by == "insert" else "/rpc/agent_submit"
        answer = owner.post(path, content=body.encode())
        said: Any = answer.json() if answer.text else {}
        if answer.is_success or said.get("code") not in code.split() or not said.get("message"):
            found[body[:120]] = f"{answer.status_code} {said.get('code')}, not {code}: {answer.text[:200]}"
    assert found == {}


def test_bodies_that_are_no_requests(owner: httpx.Client) -> None:
    for body in (b"", b"{", b"[]" * 3, b"nul", b"\xff\xfe", b'{"agent_type": "vault"', DEEP.encode()):
        for path in ("/agent_executions", "/rpc/agent_submit", "/rpc/agent_send"):
            answer = owner.post(path, content=body)
            assert 400 <= answer.status_code < 500, (path, body[:20], answer.status_code, answer.text[:200])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (f'{{"status": "approved", "edited_input": {{"a": {NUL}}}}}', "22P05"),
        (f'{{"status": "approved", "edited_input": {{"a": {HALF_A_PAIR}}}}}', "22P02"),
        (f'{{"status": "approved", "edited_input": {{"a": {DEEP}}}}}', "54001"),
        (f'{{"status": "approved", "edited_input": {{"a": {json.dumps("x" * 1_100_000)}}}}}', "23514"),
        ('{"status": "approved", "edited_input": [1]}', "23514"),
        (f'{{"status": "rejected", "comment": {NUL}}}', NUL_CODES),
        (f'{{"status": "rejected", "comment": {TOO_LARGE}}}', "23514"),
        (f'{{"status": "approved", "answer": {json.dumps("x" * 1_100_000)}}}', "23514"),
        (f'{{"status": "approved", "answer": {DEEP}}}', "54001"),
        (f'{{"status": {json.dumps(INJECTION)}}}', "RH011"),
    ],
    ids=range(10),
)
def test_decisions_that_can_not_be(cast: Cast, vault: Vault, change: str, code: str) -> None:
    headers = {
        "apikey": cast.stack.publishable_key,
        "authorization": f"Bearer {cast.token('reviewer')}",
        "content-type": "application/json",
    }
    url = f"{cast.stack.url}/rest/v1/agent_reviews?id=eq.{vault.reviews['owner']}"
    answer = httpx.patch(url, content=change.encode(), headers=headers, timeout=60)
    assert not answer.is_success
    assert answer.json()["code"] in code.split(), answer.text[:300]
    assert answer.json()["message"]
    assert vault.world.review(vault.reviews["owner"])["status"] == "pending"
    assert vault.world.status(vault.runs["owner"]) == "awaiting_review"


def test_texts_are_data(cast: Cast, vault: Vault) -> None:
    """What looks like SQL, or like a filter, is stored and searched as it is."""
    owner = cast.clients["owner"]
    run = {"agent_type": "vault", "input_data": {INJECTION: INJECTION}, "idempotency_key": INJECTION}
    stored: Any = owner.rpc("agent_submit", {**run, "metadata": {"note": INJECTION}}).execute().data
    assert (stored["input_data"], stored["idempotency_key"]) == ({INJECTION: INJECTION}, INJECTION)
    found = owner.table("agent_executions").select("id").eq("idempotency_key", INJECTION).execute().data
    assert found == [{"id": stored["id"]}]
    assert owner.rpc("agent_health_metrics", {"agent_type": INJECTION}).execute().data["runs"] == 0
    sent: Any = owner.rpc("agent_send", {"execution_id": stored["id"], "content": INJECTION}).execute().data
    message = vault.world.sql("select content from agent_messages where id = %s", sent["id"])
    assert message == [{"content": INJECTION}]
    owner.rpc("agent_cancel", {"execution_id": stored["id"], "reason": INJECTION}).execute()
    assert vault.world.run(stored["id"])["error_detail"]["reason"] == INJECTION
    vault.tidied()


@pytest.mark.parametrize(
    "query",
    [
        "id=eq.'; drop table agent_executions; --",
        "id=eq.1) or (1=1",
        "or=(id.eq.1,id.in.(select id from agent_executions))",
        "select=id,(select secret)",
        'select=id,"input_data"::text;',
        "select=pg_sleep(10)",
        "order=id;drop table x",
        "input_data->>'a') is null or 1=1 --=eq.1",
        "user_id=in.(" + ",".join(["x"] * 2000) + ")",
        "id=fts(english').x",
    ],
)
def test_filters_are_no_sql(owner: httpx.Client, vault: Vault, query: str) -> None:
    answer = owner.get(f"/agent_executions?{query}")
    assert 400 <= answer.status_code < 500, answer.text[:200]
    assert answer.json()["message"]
    assert vault.world.one("select to_regclass('public.agent_executions') is not null")
