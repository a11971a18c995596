"""HTTP at the border: what an answer means, what is repeated, what a person is told."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import respx

from runhold.errors import ConfigError, KeyRejected, Refused, StoreUnavailable, WorkerDead
from runhold.store import client
from runhold.store.answers import KINDS, GatewayAnswer, explained, kind_of
from runhold.store.client import Access, FixedAccess, Rpc, backoff_s, connect
from runhold.store.gateway import Gateway, WorkerInfo

URL = "https://project.supabase.test"
KEY = "sb_secret_very_secret"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.0)


@pytest.fixture
async def rpc() -> AsyncIterator[Rpc]:
    rpc = Rpc(await connect(URL, Access(KEY), timeout_s=5, connections=2), FixedAccess(Access(KEY)))
    yield rpc
    await rpc.aclose()


@pytest.fixture
def route() -> respx.Route:
    return respx.post(f"{URL}/rest/v1/rpc/f")


def _problem(
    status: int, code: str | None, message: str = "said so", hint: str | None = None
) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message, "hint": hint, "details": None})


GATEWAY_STATUSES = (
    400, 402, 403, 404, 405, 406, 407, 408, 409, 410, 413, 414, 415, 421, 422, 425, 428, 429, 431, 451, 499, 500, 501,
    502, 503, 504, 507, 520, 521, 522, 523, 524, 525, 526, 527, 530, 540,
)  # fmt: skip
PASSING_CODES = (
    "08006", "25006", "28000", "28P01", "3D000", "3F000", "40001", "40P01", "42501", "42883", "42P01", "42703", "53100",
    "53200", "53300", "53400", "54000", "54001", "55P03", "57014", "57P01", "57P03", "58000", "58030", "XX000", "XX001", "F0000",
    "PGRST000", "PGRST001", "PGRST002", "PGRST003", "PGRST106", "PGRST202", "PGRST203", "PGRST300", "PGRST301",
    "PGRST302", "PGRST303", "PGRSTX00",
)  # fmt: skip
JSON = {"Content-Type": "application/json; charset=utf-8"}


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
async def test_a_function_that_answers_nothing_gives_none(rpc: Rpc, route: respx.Route) -> None:
    route.respond(204)
    assert await rpc.call("f", {}, deadline_s=1) is None


PASSING: list[httpx.Response | Exception] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("GOAWAY"),
    ValueError("whatever a library raises about a malformed answer"),
    *(httpx.Response(status, text="<html><title>Sorry</title></html>") for status in GATEWAY_STATUSES),
    *(httpx.Response(status, json={"message": "no Route matched"}) for status in GATEWAY_STATUSES),
    httpx.Response(200),
    httpx.Response(200, text="<html>captive portal</html>"),
    httpx.Response(200, text="7"),  # not of the type of JSON
    httpx.Response(200, headers=JSON, content=b'{"runs": ['),
    httpx.Response(302, headers={"Location": "https://login.test"}),
    httpx.Response(429, headers={"Retry-After": "0"}),
    httpx.Response(404, json={"code": "PGRST202", "message": "PostgREST gives more members"}),
    *(_problem(400, code) for code in PASSING_CODES),
    _problem(401, "22023", 'role "runhold_worker" does not exist'),
]


@respx.mock
@pytest.mark.parametrize("failure", PASSING, ids=str)
async def test_what_may_pass_is_repeated_until_it_works(
    rpc: Rpc, route: respx.Route, failure: httpx.Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runhold")
    route.side_effect = [failure, failure, httpx.Response(200, json=7)]
    assert await rpc.call("f", {}, deadline_s=5) == 7
    assert route.call_count == 3
    first, last = (
        record.getMessage() for record in caplog.records
    )  # once per cause, and once when it is over
    assert first.startswith("f failed: ")
    assert "f is answered again after" in last
    assert "2 failed calls" in last


@respx.mock
@pytest.mark.parametrize("answer", [None, [], {}, 5, "x", {"n": []}])
async def test_success_of_another_shape_is_no_answer(rpc: Rpc, route: respx.Route, answer: object) -> None:
    route.side_effect = [httpx.Response(200, json=answer), httpx.Response(200, json={"n": 1})]
    assert await rpc.call("f", {}, deadline_s=5, read=lambda given: int(given["n"])) == 1
    assert route.call_count == 2


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
@pytest.mark.parametrize("code", ["RH005", "22P05", "22023", "23505", "P0001", "PGRST102"])
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
async def test_a_gateways_answer_keeps_its_status_and_how_it_begins_in_harmless_words(
    rpc: Rpc, route: respx.Route
) -> None:
    said = "<html><head><title>Request &lt;blocked&gt;</title><script>alert('1')</script></head><body>id 7</body>"
    route.respond(413, text=said, headers={"Retry-After": "7"})
    with pytest.raises(GatewayAnswer) as caught:
        await rpc.post("f", b"{}")
    error = caught.value
    assert (error.status, error.says, error.retry_after_s) == (413, "Request blocked", 7)
    assert error.may_be_about_content


@respx.mock
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(
            401, json={"message": "Invalid API key", "hint": "Double check your Supabase `anon` API key."}
        ),
        httpx.Response(401, json={"message": "Invalid authentication credentials"}),
        _problem(401, "PGRST301", "JWT expired"),
        _problem(401, "PGRST303", "JWT issued at future"),
    ],
)
async def test_a_rejected_key_is_told_to_whom_it_came_from_and_what_is_said_has_no_key(
    route: respx.Route, response: httpx.Response
) -> None:
    told: list[tuple[str, Access]] = []

    class Source(FixedAccess):
        def rejected(self, access: Access, error: KeyRejected) -> None:
            told.append(("rejected", access))

        def accepted(self, access: Access) -> None:
            told.append(("accepted", access))

    access = Access(KEY)
    rpc = Rpc(await connect(URL, access, timeout_s=5, connections=2), Source(access))
    route.side_effect = [response, _problem(400, "25006"), httpx.Response(200, json=1)]
    assert await rpc.call("f", {}, deadline_s=5) == 1
    assert told == [("rejected", access), ("accepted", access), ("accepted", access)]
    route.side_effect = [response]
    with pytest.raises(KeyRejected) as caught:
        await rpc.post("f", b"{}")
    sentence = str(explained(caught.value, has_token=False))
    assert "SUPABASE_SECRET_KEY" in sentence
    assert KEY not in sentence
    await rpc.aclose()


@respx.mock
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(401, text="<html>sign in</html>"),
        httpx.Response(401, json={"message": "Unauthorized"}),
        httpx.Response(401, headers={"Content-Type": "text/html"}, content=_problem(401, "PGRST301").content),
        httpx.Response(403, json={"message": "Invalid API key"}),
    ],
)
async def test_what_postgrest_did_not_say_proves_nothing_about_the_key(
    rpc: Rpc, route: respx.Route, response: httpx.Response
) -> None:
    route.mock(return_value=response)
    with pytest.raises(GatewayAnswer):
        await rpc.post("f", b"{}")


@respx.mock
@pytest.mark.parametrize(
    ("status", "code"), [(401, "PGRST301"), (401, "PGRST303"), (403, "42501"), (400, "22023")]
)
async def test_a_workers_token_is_presented_beside_the_key_and_a_refusal_names_it(
    route: respx.Route, status: int, code: str
) -> None:
    access = Access("sb_publishable_x", "a.b.c")
    rpc = Rpc(await connect(URL, access, timeout_s=5, connections=1), FixedAccess(access))
    said = 'role "runhold_worker" does not exist' if code == "22023" else "JWT expired"
    route.mock(return_value=_problem(status, code, said))
    with pytest.raises(Refused) as caught:
        await rpc.post("f", b"{}")
    sentence = str(explained(caught.value, has_token=True))
    assert re.search(f"{said}.*RUNHOLD_WORKER_TOKEN", sentence)
    assert "a.b.c" not in sentence
    headers = route.calls.last.request.headers
    assert (headers["apikey"], headers["Authorization"]) == ("sb_publishable_x", "Bearer a.b.c")
    assert len(route.calls.last.request.headers.get_list("authorization")) == 1
    await rpc.aclose()


@respx.mock
async def test_a_new_key_is_presented_from_the_next_attempt_on(route: respx.Route) -> None:
    class Rotating(FixedAccess):
        def rejected(self, access: Access, error: KeyRejected) -> None:
            self.current = Access("sb_secret_new")

    rpc = Rpc(await connect(URL, Access(KEY), timeout_s=5, connections=1), Rotating(Access(KEY)))
    route.side_effect = [_problem(401, "PGRST301"), httpx.Response(200, json=1)]
    assert await rpc.call("f", {}, deadline_s=5) == 1
    headers = route.calls.last.request.headers
    assert (headers["apikey"], headers["Authorization"]) == ("sb_secret_new", "Bearer sb_secret_new")
    await rpc.aclose()


def test_every_kind_has_one_row_and_what_is_in_none_may_pass() -> None:
    prefixes = [prefix for prefix, _ in KINDS]
    assert len(set(prefixes)) == len(prefixes)
    assert kind_of(Refused("?", code="ZZ999")).is_passing


@respx.mock
async def test_an_outage_is_logged_once_per_cause_whoever_meets_it(
    rpc: Rpc, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runhold")
    down = [httpx.Response(502, text=f"error id {n}a") for n in range(3)]
    for name in ("f", "g"):
        respx.post(f"{URL}/rest/v1/rpc/{name}").side_effect = [*down, httpx.Response(200, json=1)]
        for _ in down:
            with pytest.raises(GatewayAnswer):
                await rpc.post(name, b"{}")
    for name in ("f", "g"):
        await rpc.call(name, {}, deadline_s=5)
    failed, answered = (record.getMessage() for record in caplog.records)
    assert "f failed: the answer to f is not from PostgREST: 502 Bad Gateway, 'error id 0a'" in failed
    assert "f is answered again" in answered


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
    assert backoff_s(0, GatewayAnswer("", status=503, says="", retry_after_s=2)) == 2
    assert backoff_s(0, GatewayAnswer("", status=503, says="", retry_after_s=3600)) == client.BACKOFF_CAP_S


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

    route = answer("agent_worker_stop", {"released": 0})
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
@pytest.mark.parametrize(
    "answer",
    [
        *([], [{}], {"verdict": "ok"}, ["ok", "ok"], None),
        *(
            [verdict, {"verdict": "ok"}]
            for verdict in (
                *({}, {"verdict": []}, {"verdict": {}}, {"verdict": None}, {"verdict": "new"}),
                *({"verdict": "ok", "started": [{"step_number": "x"}]}, {"verdict": "stop", "calls": 5}),
            )
        ),
    ],
)
async def test_a_record_answer_of_another_shape_says_nothing_about_the_outcome(
    gateway: Gateway, answer: object
) -> None:
    respx.post(f"{URL}/rest/v1/rpc/agent_worker_record").respond(json=answer)
    with pytest.raises(StoreUnavailable):
        await gateway.record(uuid4(), [b"{}", b"{}"])
