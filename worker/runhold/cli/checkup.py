"""What must be right for a worker to work, looked at one by one, each with what to do about it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import UUID, uuid4

import httpx
from postgrest.exceptions import APIError

from runhold.cli.exits import CommandError
from runhold.cli.installation import FunctionsMissing, Installation, ask_api
from runhold.cli.output import hide
from runhold.environment.variables import MODEL_KEY
from runhold.errors import ConfigError, Refused, RunholdError, StoreError
from runhold.models.openai import OpenAIChatModel
from runhold.runtime.channels import email_of
from runhold.runtime.config import WorkerConfig
from runhold.runtime.notifications import Undeliverable
from runhold.runtime.realtime import connect as listen
from runhold.runtime.realtime import require_version
from runhold.runtime.registration import register
from runhold.runtime.user_access import Faults
from runhold.runtime.user_client import UserClients, signing_key
from runhold.runtime.worker_token import NEW_ONE, WorkerToken
from runhold.store.answers import explained
from runhold.store.client import Access, connect
from runhold.store.gateway import Gateway
from runhold.store.records import UserClaims
from runhold.tls import tls_context

TIMEOUT_S: Final = 10.0

ANSWER_S: Final = 2.0
"""For something to answer at all: attempts go on for so long."""

PROBE_WAIT_S: Final = 5.0
"""As long as a worker waits for its own probes."""

MAX_SKEW_S: Final = 5.0
"""Beyond that, a log of this machine can't be laid beside the database's."""

REPAIR: Final = (
    "`runhold doctor --repair` prints the SQL that sets this right; with --database-url it runs it."
)

NO_RIGHT: Final = "42501"
"""SQLSTATE: PostgREST, too, answers it where it can't take on the role that a token names."""

State = Literal["ok", "degraded", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of one check.

    :ivar state: ``degraded``: workers do without it, slower; ``skipped``: not configured, or not to be known.
    :ivar says: one sentence.
    :ivar unreachable: nothing can be done with this project: a wrong URL or key, or nothing answers.
    :ivar details: what the sentence counts, a line each.
    """

    check: str
    state: State
    says: str
    unreachable: bool = False
    details: tuple[str, ...] = ()


async def examine(
    config: WorkerConfig, environ: Mapping[str, str], *, database_url: str | None = None
) -> AsyncGenerator[Finding]:
    """Look at everything, in an order in which the first failure explains the ones that follow.

    :param database_url: compare the database with the release over it, and not through the API.
    """
    gateway = await Gateway.open(config.url, config.access, timeout_s=TIMEOUT_S, connections=2)
    try:
        api = await _api(config, gateway)
        yield api
        token = config.token()
        if token is not None:
            yield _worker_token(token)
        installation = await _installation(config, database_url, api_answers=api.state == "ok")
        if installation is not None:
            yield installation
        if api.state == "ok":
            async with _registered(config, gateway) as (findings, worker_id, ahead):
                for finding in findings:
                    yield finding
                if worker_id is not None:
                    yield await _realtime(config, gateway, worker_id)
            yield await _tokens(config, ahead)
            yield await _notifications(config)
    finally:
        await gateway.aclose()
    yield await _model(environ)


async def _api(config: WorkerConfig, gateway: Gateway) -> Finding:
    try:
        await gateway.definitions([], deadline_s=ANSWER_S)
    except StoreError as error:
        told = _sentence(explained(error, has_token=config.access.token is not None))
        if config.access.token and isinstance(error, Refused) and error.code == NO_RIGHT:
            told += " If a backup was restored, `runhold doctor --repair` gives the role back what it needs."
        return Finding(check="API", state="failed", says=told, unreachable=True)
    key = "the worker's token" if config.worker_token else "the secret key"
    return Finding(check="API", state="ok", says=f"{config.url} answers, and {key} may work.")


def _worker_token(token: WorkerToken) -> Finding:
    """Whether there is time left. That the project takes it was seen before."""
    if token.ends_soon(time.time()):
        says = f"It ends on {token.until}, and then this worker does: {NEW_ONE}."
        return Finding(check="worker token", state="degraded", says=says)
    return Finding(check="worker token", state="ok", says=f"It is good until {token.until}.")


async def _installation(
    config: WorkerConfig, database_url: str | None, *, api_answers: bool
) -> Finding | None:
    """Compare the database with the release. None: the API does not let us, for a reason that was told."""
    try:
        if database_url is not None:
            from runhold.cli.repair import ask_database  # it needs psycopg

            return compared(await ask_database(database_url))
        if api_answers:
            return compared(await ask_api(config.url, config.access))
        if config.worker_token and config.secret_key:
            # a restored database may lack what the token's role needs
            return compared(await ask_api(config.url, Access(config.secret_key)))
    except FunctionsMissing as error:
        says = f"{_sentence(error)} {REPAIR}"
        return Finding(check="installation", state="failed", says=says)
    except (CommandError, ConfigError) as error:
        return Finding(check="installation", state="failed", says=_sentence(error))
    except StoreError as error:
        if api_answers:
            return Finding(check="installation", state="failed", says=_sentence(error))
    return None


def compared(installation: Installation) -> Finding:
    """What the database lacks of the release, and what is not as it should be."""
    named = installation.named
    if not named:
        says = "The database has all objects of its release, as they should be."
        return Finding(check="installation", state="ok", says=says)
    count = "1 object is" if len(named) == 1 else f"{len(named)} objects are"
    return Finding(
        check="installation",
        state="degraded" if installation.is_optional else "failed",
        says=f"{count} not as in the release. {REPAIR}",
        details=tuple(fault.line for fault in named),
    )


@asynccontextmanager
async def _registered(
    config: WorkerConfig, gateway: Gateway
) -> AsyncGenerator[tuple[list[Finding], UUID | None, timedelta]]:
    """Be a worker without agents for a moment: it claims nothing. The last is how far the database's clock is ahead."""
    asked = time.time()
    try:
        worker = await register(
            replace(config, start_timeout_s=ANSWER_S),
            {},
            gateway,
            version="doctor",
            stop=asyncio.Event(),
            for_the_first_time=True,
        )
    except RunholdError as error:
        yield [Finding(check="migrations", state="failed", says=_sentence(error))], None, timedelta()
        return
    assert worker is not None  # nobody told it to stop
    migrations = Finding(check="migrations", state="ok", says="They are of this worker's version.")
    answered = time.time()
    there = answered if worker.database_time is None else worker.database_time.timestamp()
    try:
        findings = [migrations, _clock(asked, worker.database_time, answered)]
        yield findings, worker.worker_id, timedelta(seconds=there - answered)
    finally:
        await gateway.stop(worker.worker_id, draining=False)


async def _realtime(config: WorkerConfig, gateway: Gateway, worker_id: UUID) -> Finding:
    """Join as a worker does, and hear a probe that the database sends."""
    heard = asyncio.Event()
    topics = {f"runhold:worker:{worker_id}": {"probe": heard.set}, "runhold:workers": {"wake": _nothing}}
    meanwhile = "workers poll meanwhile"
    try:
        require_version()
        connection = await listen(config.url, config.access, topics, _nothing)
    except ConfigError as error:
        return Finding(check="Realtime", state="failed", says=_sentence(error))
    except Exception as error:  # whatever a foreign library comes up with
        why = hide(config.hide_secrets(str(error))) or type(error).__name__
        return Finding(check="Realtime", state="degraded", says=f"It can't be joined ({why}): {meanwhile}.")
    try:
        began = time.monotonic()
        await gateway.heartbeat(worker_id, [], 0)
        await asyncio.wait_for(heard.wait(), PROBE_WAIT_S)
    except RunholdError as error:
        return Finding(check="Realtime", state="failed", says=_sentence(error))
    except TimeoutError:
        says = (
            f"It is joined, but a probe sent through the database is not heard within {PROBE_WAIT_S:g} s, so "
            f"{meanwhile}: look at Realtime's logs and quotas, and at rows in realtime.messages."
        )
        return Finding(check="Realtime", state="degraded", says=says)
    finally:
        await connection.aclose()
    took = round((time.monotonic() - began) * 1000)
    return Finding(check="Realtime", state="ok", says=f"A probe through the database is heard ({took} ms).")


def _nothing() -> None:
    """A wake-up is for workers."""


def _clock(asked: float, database_time: datetime | None, answered: float) -> Finding:
    """Compare the clocks: what the database said its time was lies between question and answer."""
    if database_time is None:
        return Finding(check="clock", state="skipped", says="The database does not say its time.")
    there = database_time.timestamp()
    skew = max(asked - there, there - answered, 0.0)
    if skew > MAX_SKEW_S:
        side = "ahead of" if asked > there else "behind"
        says = f"This machine is {skew:.0f} s {side} the database: set its clock (NTP), or its log misleads."
        return Finding(check="clock", state="degraded", says=says)
    return Finding(check="clock", state="ok", says=f"It agrees with the database's within {MAX_SKEW_S:g} s.")


async def _tokens(config: WorkerConfig, ahead: timedelta) -> Finding:
    """Act as a user whom nobody knows: row level security shows them nothing, and no error."""

    def failed(says: str) -> Finding:
        return Finding(check="ctx.supabase", state="failed", says=says)

    try:
        key = signing_key(secret=config.jwt_secret, jwk=config.jwt_signing_key)
    except ConfigError as error:
        return failed(_sentence(error))
    if key is None:
        says = "There is no signing key, so tools can't use it: set SUPABASE_JWT_SIGNING_KEY if they shall."
        return Finding(check="ctx.supabase", state="skipped", says=says)
    users = UserClients(config.url, config.publishable_key, key, faults=Faults(logging.DEBUG))
    nobody = {"sub": str(uuid4()), "role": "authenticated", "aud": "authenticated"}

    async def claims() -> UserClaims:
        return UserClaims(claims=nobody, now=datetime.fromtimestamp(time.time(), UTC) + ahead)

    try:
        client = users.for_run(claims)(lambda _: None)
        async with asyncio.timeout(TIMEOUT_S):
            await client.table("agent_executions").select("id").limit(1).execute()
    except ConfigError as error:
        return failed(_sentence(error))
    except APIError as error:
        return failed(f"The project refuses a user's request: {error.message}.")
    except (httpx.HTTPError, TimeoutError) as error:
        return failed(f"No answer to a user's request: {error or type(error).__name__}.")
    finally:
        await users.aclose()
    return Finding(
        check="ctx.supabase", state="ok", says="The project takes the tokens that we sign for users."
    )


async def _notifications(config: WorkerConfig) -> Finding:
    """Whether this worker can tell reviewers in the ways that agent types name; nothing is sent."""

    def finding(state: State, says: str) -> Finding:
        return Finding(check="notifications", state=state, says=says)

    email = email_of(config)
    if email is not None:
        try:
            await email.check()
        except Undeliverable as error:
            return finding("failed", f"Mail can't be sent, {error}: check RUNHOLD_SMTP_URL.")
    wanted = await _told(config)
    if wanted is None:
        mail = "has no mail server" if email is None else "reaches its mail server"
        return finding("skipped", f"What agent types want is not for this worker to see; it {mail}.")
    lacks = [lack for name in sorted(wanted) for lack in _lacking(config, name, wanted[name])]
    if lacks:
        says = f"Not set here: {', '.join(lacks)}. E-mail is left to other workers, webhooks fail."
        return finding("degraded", says)
    if not wanted:
        return finding("skipped", "No agent type tells reviewers outside of Supabase.")
    return finding("ok", f"Reviewers can be told as agent types want it ({', '.join(sorted(wanted))}).")


def _lacking(config: WorkerConfig, agent_type: str, notify: Mapping[str, Any]) -> list[str]:
    """What is not in the environment for one type."""
    secret = notify.get("webhook", {}).get("secret_name")
    return [
        *([f"RUNHOLD_SMTP_URL for {agent_type}"] if "email" in notify and config.smtp_url is None else []),
        *([f"{secret} for {agent_type}"] if secret and secret not in config.webhook_secrets else []),
    ]


async def _told(config: WorkerConfig) -> Mapping[str, Mapping[str, Any]] | None:
    """``notify`` of the agent types that have it; None: the worker may not see it."""
    client = await connect(config.url, config.access, timeout_s=TIMEOUT_S, connections=1)
    try:
        answer = await client.table("agent_types").select("name, notify").not_.is_("notify", "null").execute()
    except (APIError, httpx.HTTPError):
        return None
    finally:
        await client.postgrest.aclose()
    rows = cast("list[dict[str, Any]]", answer.data)
    return {row["name"]: row["notify"] for row in rows}


async def _model(environ: Mapping[str, str]) -> Finding:
    """Ask for the list of models, which costs nothing."""
    if not environ.get(MODEL_KEY, "").strip():
        return Finding(check="model", state="skipped", says=f"{MODEL_KEY} is not set here.")
    try:
        base = OpenAIChatModel.from_env(environ).base_url
    except ConfigError as error:
        return Finding(check="model", state="failed", says=_sentence(error))
    key, host = environ[MODEL_KEY].strip(), httpx.URL(base).host
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=tls_context(base)) as http:
            answer = await http.get(f"{base.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
    except httpx.HTTPError as error:
        says = f"{host} does not answer: {type(error).__name__}."
        return Finding(check="model", state="failed", says=says)
    if answer.status_code in (401, 403):
        return Finding(check="model", state="failed", says=f"{host} refuses {MODEL_KEY}.")
    if answer.status_code >= 500:
        says = f"{host} answers {answer.status_code}; runs wait while it does."
        return Finding(check="model", state="degraded", says=says)
    return Finding(check="model", state="ok", says=f"{host} answers.")


def _sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
