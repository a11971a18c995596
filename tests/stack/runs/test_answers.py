"""A gateway answers in the project's place: the worker stays, and nothing happens twice."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import jwt
import pytest
from aiohttp import web
from town import Town, eventually

from runhold.testing.chaos import WorkerProcess
from runhold.testing.chaos.points import Points
from runhold.testing.chaos.proxy import RPC, Proxy

LOGGED_WITHIN_S: Final = 2.0
PAGE: Final = "text/html; charset=utf-8"
JSON: Final = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What a gateway answers instead of relaying."""

    status: int
    body: str = ""
    media_type: str = PAGE
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.status} {self.body[:30]}"


def page(status: int, title: str, **headers: str) -> Answer:
    return Answer(status, f"<!DOCTYPE html><html><head><title>{title}</title></head></html>", PAGE, headers)


def error(status: int, code: str, message: str = "said so") -> Answer:
    """As PostgREST writes it."""
    return Answer(status, json.dumps({"code": code, "message": message, "details": None, "hint": None}), JSON)


def text(status: int, body: str, media_type: str = JSON) -> Answer:
    return Answer(status, body, media_type)


ANSWERS: Final = (
    page(200, "Welcome to our hotel"),
    page(400, "400 Bad Request"),
    page(402, "Payment required"),
    text(402, '{"message": "exceed_egress_quota"}'),
    page(403, "Access denied by security policy"),
    text(403, '{"message": "Forbidden"}'),
    page(404, "404 Not Found"),
    text(404, '{"message": "no Route matched with those values"}'),
    page(405, "405 Not Allowed"),
    page(406, "406 Not Acceptable"),
    page(407, "Proxy authentication required"),
    page(408, "408 Request Time-out"),
    page(413, "413 Request Entity Too Large"),
    page(421, "421 Misdirected Request"),
    page(429, "Too many requests", **{"Retry-After": "0"}),
    page(431, "Request header too large"),
    page(451, "Unavailable for legal reasons"),
    page(301, "Moved", Location="https://elsewhere.test/"),
    page(302, "Sign in", Location="https://login.test/"),
    page(500, "Internal server error"),
    text(502, "error code: 502", "text/plain"),
    page(503, "Service unavailable"),
    page(504, "504 Gateway Time-out"),
    page(520, "Web server returns an unknown error"),
    page(522, "Connection timed out"),
    text(530, "error code: 1016", "text/plain"),
    page(540, "Project paused"),
    text(200, ""),
    text(200, '{"runs": [{"id"'),
    text(200, "[]"),
    text(200, "null"),
    text(200, "5"),
    text(200, "{}", PAGE),
    text(401, '{"message": "Unauthorized"}'),
    text(
        401,
        '{"message": "Invalid API key", "hint": "Double check your Supabase `anon` or `service_role` API key."}',
    ),
    error(401, "PGRST301", "JWT expired"),
    error(401, "PGRST303", "JWT issued at future"),
    error(404, "PGRST202", "Could not find the function"),
    error(503, "PGRST002", "Could not query the database for the schema cache"),
    error(403, "42501", "permission denied for function agent_worker_claim"),
    error(404, "42883", "function runhold.worker_claim(uuid) does not exist"),
    error(404, "42P01", 'relation "agent_executions" does not exist'),
    error(401, "22023", 'role "runhold_worker" does not exist'),
    error(405, "25006", "cannot execute UPDATE in a read-only transaction"),
    error(503, "53100", "could not extend file: No space left on device"),
    error(400, "21000", "UPDATE requires a WHERE clause"),
    error(400, "P0001", "not now, says a trigger of somebody"),
    error(400, "PGRST102", "Empty or invalid json"),
    error(500, "28P01", "password authentication failed"),
    error(500, "3D000", 'database "postgres" does not exist'),
    error(500, "57014", "canceling statement due to statement timeout"),
    error(500, "58030", "could not read block 0"),
    error(500, "54001", "stack depth limit exceeded"),
    error(500, "XX000", "cache lookup failed"),
)


class Between(Proxy):
    """A gateway that answers as ``plays`` says, and relays where that says None."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, Points())
        self.plays: Callable[[web.Request, bytes], Answer | None] = lambda request, body: None
        self.played = 0
        self.sockets = 0

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.sockets += 1
            return await super()._serve(request)
        body = await request.read()
        answer = self.plays(request, body) if request.path.startswith(RPC) else None
        if answer is None:
            return await super()._serve(request)
        self.played += 1
        headers = {"Content-Type": answer.media_type, **answer.headers}
        return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)


@pytest.fixture
async def between(town: Town) -> AsyncIterator[Between]:
    async with Between(town.stack.url) as made:
        yield made


async def ready(worker: WorkerProcess) -> None:
    def check() -> bool:
        assert worker.running, worker.log_tail
        return "worker ready" in worker.log

    await eventually(check, f"{worker.name} to be ready")


def failures_in(log: str) -> list[str]:
    return [line for line in log.splitlines() if "it is called again with growing pauses" in line]


async def test_a_ready_worker_outlives_every_answer_and_says_each_cause_once(
    town: Town, between: Between
) -> None:
    worker = town.worker("--no-realtime", "--poll", "0.05", lease_s=9, SUPABASE_URL=between.url)
    await ready(worker)
    user, runs = await town.person(), list[str]()
    for answer in ANSWERS:
        before, played = len(worker.log), between.played
        between.plays = lambda request, body, answer=answer: answer
        await eventually(lambda played=played: between.played > played, "a call")
        began = time.monotonic()
        await eventually(lambda before=before: failures_in(worker.log[before:]), f"a word about {answer}")
        assert time.monotonic() - began < LOGGED_WITHIN_S + 5, answer  # 5: for a busy machine
        runs.append(
            await town.submit(
                user, ["call", "save", {"name": str(answer)}], ["call", "post", {"text": "x"}], ["say", "."]
            )
        )
        await eventually(lambda played=played: between.played >= played + 2, "a second call")
        between.plays = lambda request, body: None
        await eventually(
            lambda before=before: "is answered again after" in worker.log[before:], f"the end of {answer}"
        )
        # a call that was under way at either end may meet it apart from the others
        assert 1 <= len(failures_in(worker.log[before:])) <= 3, worker.log[before:]
        assert worker.running
    for run_id in runs:
        await town.until(user, run_id, "completed")
    assert "Traceback" not in worker.log
    assert len(failures_in(worker.log)) <= 1.2 * len(ANSWERS)
    saved = [what for kind, what in town.ledger if kind == "save"]
    assert len(set(saved)) == len(saved) == len(ANSWERS)
    assert sum(kind == "post" for kind, _ in town.ledger) == len(ANSWERS)
    assert await worker.terminate() == 0


FIREWALL: Final = {
    b"DROP-TABLE-403": page(403, "Request <b>blocked</b> id 1-2-3"),
    b"DROP-TABLE-406": page(406, "Not Acceptable"),
    b"DROP-TABLE-200": page(200, "The requested URL was rejected"),
    b"DROP-TABLE-400": page(400, "Bad request"),
}


async def test_a_run_whose_content_is_rejected_fails_with_a_code_of_its_own_and_no_other_does(
    town: Town, between: Between
) -> None:
    limit = 20_000

    def firewall(request: web.Request, body: bytes) -> Answer | None:
        if not request.path.endswith("agent_worker_record"):
            return None
        if len(body) > limit:
            return page(413, "413 Request Entity Too Large")
        return next((answer for word, answer in FIREWALL.items() if word in body), None)

    between.plays = firewall
    worker = town.worker("--no-realtime", "--poll", "0.1", SUPABASE_URL=between.url)
    user = await town.person()
    bad = {
        word: await town.submit(
            user, ["call", "post", {"text": word[-3:]}], ["call", "look", {"key": f"'; {word}"}], ["say", "."]
        )
        for word in map(bytes.decode, FIREWALL)
    }
    large = await town.submit(user, ["call", "post", {"text": "413"}], ["say", "x" * limit])
    good = [await town.submit(user, ["call", "post", {"text": "good"}], ["say", "."]) for _ in range(5)]
    began = time.monotonic()
    for run_id in good:
        await town.until(user, run_id, "completed")
    for word, run_id in {**bad, "413": large}.items():
        row = await town.until(user, run_id, "failed")
        assert row["error"] == "CONTENT_REJECTED"
        detail = row["error_detail"]
        assert detail["status"] == int(word[-3:])
        assert detail["answer"]
        assert detail["bytes"] > 100
        assert "DROP" not in json.dumps(detail)
        assert "<" not in json.dumps(detail)
    assert time.monotonic() - began < 60
    assert sorted(what for _, what in town.ledger) == sorted(
        [*(word[-3:] for word in bad), "413", *["good"] * 5]
    )
    await town.until(user, await town.submit(user, ["say", "on"]), "completed")
    assert worker.running


def token_of(town: Town, days: int) -> str:
    claims = {"role": "runhold_worker", "exp": int(time.time()) + days * 86400}
    return jwt.encode(claims, town.stack.jwt_secret, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]


def rejecting(*tokens: str) -> Callable[[web.Request, bytes], Answer | None]:
    """As PostgREST does when a key was taken back."""
    rejected = {f"Bearer {token}" for token in tokens}
    no = error(401, "PGRST301", "No suitable key was found to decode the JWT")
    return lambda request, body: no if request.headers.get("Authorization") in rejected else None


@pytest.mark.usefixtures("signs_tokens")
@pytest.mark.realtime
async def test_a_key_that_is_rotated_in_the_environment_file_is_used_without_a_restart(
    town: Town, between: Between
) -> None:
    old, new = token_of(town, 10), token_of(town, 20)
    worker = town.worker(lease_s=5, SUPABASE_URL=between.url, RUNHOLD_WORKER_TOKEN=old)
    await ready(worker)
    await eventually(lambda: between.sockets == 1, "Realtime")
    between.plays = rejecting(old)
    await eventually(lambda: failures_in(worker.log), "the rejection")
    user = await town.person()
    run = await town.submit(user, ["call", "post", {"text": "x"}], ["say", "."])
    write_env(town, SUPABASE_URL=between.url, RUNHOLD_WORKER_TOKEN=new)
    await town.until(user, run, "completed")
    await eventually(lambda: between.sockets == 2, "Realtime with the new token")
    assert "is used from here on" in worker.log
    assert old not in worker.log
    assert new not in worker.log
    assert "the lease is lost" not in worker.log
    assert town.ledger == [["post", "x"]]


def write_env(town: Town, **values: str) -> None:
    """The environment file in the worker's folder."""
    (town.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


@pytest.mark.usefixtures("signs_tokens")
async def test_a_key_that_stays_rejected_ends_the_worker_with_a_sentence(
    town: Town, between: Between
) -> None:
    token = token_of(town, 10)
    worker = town.worker("--give-up", "1.5", lease_s=30, SUPABASE_URL=between.url, RUNHOLD_WORKER_TOKEN=token)
    await ready(worker)
    between.plays = rejecting(token)
    assert await worker.ended() == 4
    [line] = [line for line in worker.log.splitlines() if line.startswith("Error: ")]
    assert "No suitable key was found to decode the JWT, for" in line
    assert "RUNHOLD_WORKER_TOKEN" in line
    assert token not in worker.log
    assert "Traceback" not in worker.log


async def test_a_start_outlives_what_passes(town: Town, between: Between) -> None:
    passing = [
        error(401, "PGRST303", "JWT issued at future"),
        page(502, "Bad gateway"),
        page(404, "default backend"),
        error(500, "25006", "read-only transaction"),
        error(404, "PGRST202", "Could not find the function"),
    ]
    between.plays = lambda request, body: passing.pop(0) if passing else None
    worker = town.worker(SUPABASE_URL=between.url)
    await ready(worker)
    assert between.played == 5
    assert len(failures_in(worker.log)) == 5


@pytest.mark.parametrize(
    ("answer", "options", "says"),
    [
        (page(404, "404 Not Found"), [], "leads to no Supabase project"),
        (page(301, "Moved", Location="https://x.test/"), [], "leads to no Supabase project"),
        (page(503, "Sorry"), ["--start-timeout", "0.5"], "Nothing answers at SUPABASE_URL"),
        (
            error(401, "PGRST301", "JWT expired"),
            ["--start-timeout", "0.5"],
            "JWT expired): set RUNHOLD_WORKER_TOKEN",
        ),
        (error(400, "25006", "read-only"), ["--start-timeout", "0.5"], "can't be used: read-only [25006]"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("signs_tokens")
async def test_a_start_that_can_not_succeed_ends_with_a_sentence(
    town: Town, between: Between, answer: Answer, options: list[str], says: str
) -> None:
    between.plays = lambda request, body: answer
    worker = town.worker(*options, SUPABASE_URL=between.url)
    assert await worker.ended() == 4
    [line] = [line for line in worker.log.splitlines() if line.startswith("Error: ")]
    assert says in line
    assert "Traceback" not in worker.log
