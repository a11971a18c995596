"""The worker process: one event loop, any number of runs, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any, Final, TypeVar

import httpx

from runhold.agents import Agent
from runhold.environment.network import require_network
from runhold.environment.system import require_unix
from runhold.environment.variables import REDACT_KEY
from runhold.errors import ConfigError, RunholdError
from runhold.loop.ports import ChatModel
from runhold.loop.redaction import Redaction
from runhold.models.breaker import Breaker
from runhold.models.openai import OpenAIChatModel
from runhold.models.prices import Prices
from runhold.runtime.access import KeptAccess
from runhold.runtime.config import WorkerConfig
from runhold.runtime.heartbeat import BEATS_PER_LEASE
from runhold.runtime.progress import Progress
from runhold.runtime.realtime import require_version
from runhold.runtime.registration import register
from runhold.runtime.runs import Equipment
from runhold.runtime.session import Session
from runhold.runtime.threads import DaemonThreads
from runhold.runtime.user_client import UserClients, signing_key
from runhold.runtime.worker_token import warn_before_the_end
from runhold.store.gateway import Gateway
from runhold.store.outages import Outages
from runhold.store.redact import MAKE_KEY, Vault
from runhold.tls import tls_context

T = TypeVar("T")

logger = logging.getLogger(__name__)

PROGRESS_CONNECTIONS: Final = 2

MIN_TIMEOUT_S: Final = 3.0
"""One attempt of one call takes a third of the lease at most: then a second one may still save it. But with a very
short lease, giving up a slow answer early only doubles the work."""


async def run_worker(
    config: WorkerConfig,
    agents: Sequence[Agent],
    *,
    model: ChatModel | None = None,
    stop_event: asyncio.Event | None = None,
) -> int:
    """Work until told to stop; the exit status.

    :param model: who decides; from ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL`` if not given.
    :param stop_event: stops the worker when set. Without one, SIGTERM and SIGINT do, and a second one ends the
        process at once.
    :raises ConfigError: it can't start as configured; the text is one sentence.
    :raises SideTaskDied: a part that it lives by ended.
    """
    require_unix()
    require_network()
    if not agents:
        raise ConfigError("There are no agents to work for.")
    if config.realtime:
        require_version()
    stop = stop_event or asyncio.Event()
    access = KeptAccess(config)
    async with _equipment(config, access, agents, model) as equipment:
        timeout_s = max(config.lease_s / BEATS_PER_LEASE, MIN_TIMEOUT_S)
        warning = asyncio.create_task(warn_before_the_end(access.token), name="token's end")
        outages = Outages()
        gateway = await Gateway.open(config.url, access, timeout_s=timeout_s, outages=outages)
        try:
            with contextlib.nullcontext() if stop_event else _stopping_on_signals(stop):
                await _sessions(config, access, equipment, gateway, outages, stop)
        finally:
            warning.cancel()
            await asyncio.gather(warning, return_exceptions=True)
            await gateway.aclose()
    return 0


async def _sessions(
    config: WorkerConfig,
    access: KeptAccess,
    equipment: Equipment,
    gateway: Gateway,
    outages: Outages,
    stop: asyncio.Event,
) -> None:
    """One registration after the other: a new one whenever the lease of the last was lost.

    :raises ConfigError: the worker can't start, or what it presents stays rejected.
    """
    beat_s = config.lease_s / BEATS_PER_LEASE
    open_heartbeat = partial(
        Gateway.open, config.url, access, timeout_s=beat_s, connections=1, outages=outages
    )
    first = True
    former: Session | None = None
    while not stop.is_set():
        registering = register(
            config, equipment.agents, gateway, version=_version(), stop=stop, for_the_first_time=first
        )
        registered = await (registering if first else _unless_given_up(access, registering))
        if registered is None:
            return
        first = False
        if former is not None:
            await _give_back(gateway, former)
        former = Session(
            config, equipment, gateway, open_heartbeat, registered, access=lambda: access.current
        )
        if await _unless_given_up(access, former.run(stop)) == "stopped":
            return


async def _unless_given_up(access: KeptAccess, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives.

    :raises ConfigError: what the worker presents has been rejected for too long; ``work`` was ended.
    """
    task, given_up = asyncio.create_task(work), asyncio.create_task(access.until_given_up())
    try:
        await asyncio.wait((task, given_up), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            given_up.result()
        return await task
    finally:
        for each in (task, given_up):
            each.cancel()
        await asyncio.gather(task, given_up, return_exceptions=True)


async def _give_back(gateway: Gateway, former: Session) -> None:
    """What the last registration dropped in an outage: at once, and not counted as an attempt."""
    if not former.dropped:
        return
    try:
        released = await gateway.release(former.worker_id, former.dropped, "lease_lost")
    except RunholdError as error:
        logger.warning("%d runs go on when a sweep finds them: %s", len(former.dropped), error)
    else:
        logger.info("%d runs of the lost lease were given back", released)


@asynccontextmanager
async def _equipment(
    config: WorkerConfig, access: KeptAccess, agents: Sequence[Agent], model: ChatModel | None
) -> AsyncGenerator[Equipment]:
    """What all runs share, opened and closed together."""
    by_type = {agent.type: agent for agent in agents}
    vault = _vault(config, agents)
    key = signing_key(secret=config.jwt_secret, jwk=config.jwt_signing_key)
    users = UserClients(config.url, config.publishable_key, key)
    own_model = OpenAIChatModel.from_env() if model is None else None
    breaker = Breaker(model or own_model)  # pyright: ignore[reportArgumentType]
    prices = Prices(base_url=own_model.base_url if own_model else None)
    executor = DaemonThreads(config.capacity, name="runhold-tool")
    http = httpx.AsyncClient(
        verify=tls_context(config.url), limits=httpx.Limits(max_connections=PROGRESS_CONNECTIONS)
    )
    progress = Progress(config.url, lambda: access.current, http) if config.realtime else None
    sending = asyncio.create_task(progress.run(), name="progress") if progress else None
    try:
        yield Equipment(
            agents=by_type,
            model=breaker,
            executor=executor,
            prices=prices,
            users=users,
            progress=progress.sink if progress else lambda _: None,
            vault=vault,
        )
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await http.aclose()
        await users.aclose()
        if own_model is not None:
            await own_model.aclose()
        executor.shutdown()
        for name, times in breaker.opened.items():
            logger.info(
                "model %s was unavailable %d times, %d calls were not made meanwhile",
                name,
                times,
                breaker.turned_away[name],
                extra={"action": "model_outages"},
            )


def _vault(config: WorkerConfig, agents: Sequence[Agent]) -> Vault | None:
    """What encrypts redacted fields; None: nothing is to be redacted, and no key was given.

    :raises ConfigError: a key is missing or is none.
    """
    redacting = next((agent.type for agent in agents if Redaction.of(agent)), None)
    if redacting is not None and not config.redact_keys:
        raise ConfigError(
            f"Agent {redacting!r} redacts fields, so its workers need a key to encrypt them with, the same on all of "
            f"them: set {REDACT_KEY} (make one with `{MAKE_KEY}`)."
        )
    return Vault(config.redact_keys) if config.redact_keys else None


@contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Generator[None]:
    """The first SIGTERM or SIGINT sets ``stop``; the second ends the process now."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int) -> None:
        if stop.is_set():
            logger.warning("stopping at once; what is held goes on elsewhere when the lease ends")
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, heard, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _version() -> str:
    try:
        return version_of("runhold")
    except PackageNotFoundError:
        return "unknown"
