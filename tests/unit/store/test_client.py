"""HTTP at the border: what an answer means, what is repeated, what a person is told."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import respx

from runhold.errors import ConfigError, Refused, StoreUnavailable, WorkerDead
from runhold.store import client
from runhold.store.client import Access, Rpc, backoff_s, connect
from runhold.store.gateway import Gateway, WorkerInfo

URL = "https://project.supabase.test"
KEY = "sb_secret_very_secret"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(client, "STALE_SCHEMA_RETRY_S", 0.0)


@pytest.fixture
async def rpc() -> AsyncIterator[Rpc]:
    rpc = Rpc(await connect(URL, Access(KEY), timeout_s=5, connections=2))
    yield rpc
    await rpc.aclose()


@pytest.fixture
def route() -> respx.Route:
    return respx.post(f"{URL}/rest/v1/rpc/f")


def _problem(
    status: int, code: str | None, message: str = "said so", hint: str | None = None
) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message, "hint": hint, "details": None})


@respx.mock
async def test_a_call_posts_its_arguments_with_the_key(rpc: Rpc, route: respx.Route) -> None:
    route.respond(json={"n": 1})
    who = uuid4()
    assert await rpc.call("f", {"worker_id": who, "n": 2}, deadline_s=1) == {"n": 1}
    request = route.calls.last.request
    assert json.loads(request.content) == {"worker_id": str(who), "n": 2}
    assert request.headers["apikey"] == KEY
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"


@respx.mock
async def test_an_empty_answer_is_none(rpc: Rpc, route: respx.Route) -> None:
    route.respond(204)
    assert await rpc.call("f", {}, deadline_s=1) is None


@respx.mock
@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("GOAWAY"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(503),
        httpx.Response(504),
        httpx.Response(520),
        httpx.Response(500, text="oops"),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(200, text="<html>captive portal</html>"),
        _problem(503, "PGRST001"),
        _problem(500, "40P01"),
        _problem(503, "53300"),
        _problem(500, "57P03"),
    ],
)
async def test_what_may_pass_is_repeated_until_it_works(
    rpc: Rpc, route: respx.Route, failure: httpx.Response | Exception
) -> None:
    route.side_effect = [failure, failure, httpx.Response(200, json=7)]
    assert await rpc.call("f", {}, deadline_s=5) == 7
    assert route.call_count == 3


@respx.mock
async def test_repeating_ends_at_the_deadline(
    rpc: Rpc, route: respx.Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.01)
    route.side_effect = httpx.ConnectError("refused")
    with pytest.raises(StoreUnavailable, match="refused"):
        await rpc.call("f", {}, deadline_s=0.05)
    assert route.call_count > 1


@respx.mock
async def test_one_attempt_is_one_attempt(rpc: Rpc, route: respx.Route) -> None:
    route.side_effect = httpx.ConnectError("refused")
    with pytest.raises(StoreUnavailable):
        await rpc.post("f", b"{}")
    assert route.call_count == 1


@respx.mock
@pytest.mark.parametrize("code", ["RH005", "22P05", "23505", "P0001", "XX000"])
async def test_a_refusal_keeps_its_code_and_hint_and_is_not_repeated(
    rpc: Rpc, route: respx.Route, code: str
) -> None:
    route.mock(return_value=_problem(400, code, hint="do this"))
    with pytest.raises(Refused, match="said so") as caught:
        await rpc.call("f", {}, deadline_s=1)
    assert (caught.value.code, caught.value.hint) == (code, "do this")
    assert route.call_count == 1


@respx.mock
async def test_a_dead_worker_is_told_apart(rpc: Rpc, route: respx.Route) -> None:
    route.mock(return_value=_problem(400, "RH012"))
    with pytest.raises(WorkerDead):
        await rpc.call("f", {}, deadline_s=1)


@respx.mock
async def test_a_body_too_large_is_a_refusal_for_its_data(rpc: Rpc, route: respx.Route) -> None:
    route.respond(413, text="<html>too large</html>")
    with pytest.raises(Refused) as caught:
        await rpc.call("f", {}, deadline_s=1)
    assert caught.value.code == "413"


@respx.mock
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401, json={"message": "Invalid API key", "hint": "Double check your API key."}),
        httpx.Response(403, text="forbidden"),
        _problem(401, "PGRST301", "JWT expired"),
        _problem(403, "42501", "permission denied for function f"),
    ],
)
async def test_a_refused_key_is_said_in_one_sentence_without_the_key(
    rpc: Rpc, route: respx.Route, response: httpx.Response
) -> None:
    route.mock(return_value=response)
    with pytest.raises(ConfigError, match="SUPABASE_SECRET_KEY") as caught:
        await rpc.call("f", {}, deadline_s=1)
    assert KEY not in str(caught.value)
    assert route.call_count == 1


@respx.mock
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "PGRST301"), (401, "PGRST303"), (403, "42501"), (400, "22023"), (401, None)],
)
async def test_a_workers_token_is_presented_beside_the_key_and_a_refusal_names_it(
    route: respx.Route, status: int, code: str | None
) -> None:
    rpc = Rpc(await connect(URL, Access("sb_publishable_x", "a.b.c"), timeout_s=5, connections=1))
    route.mock(return_value=_problem(status, code, "JWT expired"))
    with pytest.raises(ConfigError, match=r"JWT expired.*RUNHOLD_WORKER_TOKEN") as caught:
        await rpc.call("f", {}, deadline_s=1)
    assert "a.b.c" not in str(caught.value)
    headers = route.calls.last.request.headers
    assert (headers["apikey"], headers["Authorization"]) == ("sb_publishable_x", "Bearer a.b.c")
    assert len(route.calls.last.request.headers.get_list("authorization")) == 1
    await rpc.aclose()


@respx.mock
async def test_missing_migrations_are_said_after_one_more_try(rpc: Rpc, route: respx.Route) -> None:
    route.mock(return_value=_problem(404, "PGRST202"))
    with pytest.raises(ConfigError, match="supabase db push --linked"):
        await rpc.call("f", {}, deadline_s=1)
    assert route.call_count == 2


@respx.mock
async def test_a_stale_schema_cache_heals(rpc: Rpc, route: respx.Route) -> None:
    route.side_effect = [_problem(404, "PGRST202"), httpx.Response(200, json=1)]
    assert await rpc.call("f", {}, deadline_s=1) == 1


@respx.mock
@pytest.mark.parametrize("status", [301, 404, 405])
async def test_a_url_that_leads_elsewhere_is_said(rpc: Rpc, route: respx.Route, status: int) -> None:
    route.respond(status, text="<html>hello</html>", headers={"Location": "https://elsewhere.test"})
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        await rpc.call("f", {}, deadline_s=1)


@pytest.mark.parametrize("url", ["", "project.supabase.co", "ftp://x"])
async def test_a_url_that_cannot_be_one_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        await connect(url, Access(KEY), timeout_s=1, connections=1)


@respx.mock
async def test_the_key_is_never_logged(
    rpc: Rpc, route: respx.Route, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    route.side_effect = [httpx.ConnectError("refused"), httpx.Response(200, json=1)]
    await rpc.call("f", {}, deadline_s=1)
    assert KEY not in caplog.text


def test_pauses_grow_are_bounded_and_honour_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert [backoff_s(attempt) for attempt in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    assert backoff_s(1000) == client.BACKOFF_CAP_S
    assert backoff_s(0, client.Overloaded("", retry_after_s=2)) == 2
    assert backoff_s(0, client.Overloaded("", retry_after_s=3600)) == client.BACKOFF_CAP_S


# ------------------------------------------------------------------------------------------- the gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = await Gateway.open(URL, Access(KEY))
    yield gateway
    await gateway.aclose()


def _sent(route: respx.Route) -> dict[str, object]:
    return json.loads(route.calls.last.request.content)


@respx.mock
async def test_every_rpc_is_called_as_the_protocol_says(gateway: Gateway) -> None:
    worker, run, definition = uuid4(), uuid4(), uuid4()

    def answer(function: str, body: object) -> respx.Route:
        return respx.post(f"{URL}/rest/v1/rpc/{function}").respond(json=body)

    route = answer(
        "agent_worker_register",
        {
            "definitions": {"t": str(definition)},
            "lease_ms": 30000,
            "types": {"t": {"enabled": False, "approval_tools": None}},
        },
    )
    info = WorkerInfo(id=worker, hostname="h", pid=1, version="0", capacity=2, lease_ms=3)
    registration = await gateway.register(info, [{"agent_type": "t"}])
    assert registration.definitions == {"t": definition}
    assert not registration.types["t"].enabled
    assert _sent(route) == {
        "worker": {
            "id": str(worker),
            "hostname": "h",
            "pid": 1,
            "version": "0",
            "capacity": 2,
            "lease_ms": 3,
        },
        "definitions": [{"agent_type": "t"}],
    }

    route = answer("agent_worker_claim", {"runs": [], "next_due": None, "more": True})
    assert (await gateway.claim(worker, 4, {"t": definition}, 5)).more
    assert _sent(route) == {"worker_id": str(worker), "seq": 4, "definitions": {"t": str(definition)}, "n": 5}

    route = answer("agent_worker_record", [{"verdict": "ok"}, {"verdict": "busy"}])
    assert len(await gateway.record(worker, [b'{"a":1}', b'{"b":2}'])) == 2
    assert _sent(route) == {"worker_id": str(worker), "entries": [{"a": 1}, {"b": 2}]}

    route = answer("agent_worker_heartbeat", {"lease_ms": 30000, "cancelled": [str(run)], "lost": []})
    assert (await gateway.heartbeat(worker, [run], 9)).cancelled == [run]
    assert _sent(route) == {"worker_id": str(worker), "held": [str(run)], "last_seq": 9}

    route = answer("agent_worker_release", {"released": 1})
    assert await gateway.release(worker, [run], "why") == 1
    assert _sent(route) == {
        "worker_id": str(worker),
        "executions": [str(run)],
        "reason": "why",
        "counted": False,
    }

    route = answer("agent_worker_stop", None)
    await gateway.stop(worker, draining=True)
    assert _sent(route) == {"worker_id": str(worker), "draining": True}

    route = answer("agent_sweep", {"requeued": 2})
    assert await gateway.sweep() == {"requeued": 2}
    assert _sent(route) == {}

    route = answer(
        "agent_worker_definitions",
        [
            {
                "id": str(definition),
                "agent_type": "t",
                "version": "1",
                "model": "m",
                "instructions": "",
                "tools": [],
                "params": {},
                "limits": {},
            }
        ],
    )
    assert (await gateway.definitions([definition]))[0].id == definition
    assert _sent(route) == {"ids": [str(definition)]}


@respx.mock
@pytest.mark.parametrize("answer", [[], [{}], {"verdict": "ok"}, ["ok", "ok"], None])
async def test_a_record_answer_of_another_shape_says_nothing_about_the_outcome(
    gateway: Gateway, answer: object
) -> None:
    respx.post(f"{URL}/rest/v1/rpc/agent_worker_record").respond(json=answer)
    with pytest.raises(StoreUnavailable):
        await gateway.record(uuid4(), [b"{}", b"{}"])
