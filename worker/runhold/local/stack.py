"""The local stack as one object: started whole, watched, stopped in order."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import jwt

from runhold.local.api import ApiDatabase, start_api
from runhold.local.bootstrap import bootstrap
from runhold.local.child import Child
from runhold.local.config import read_config
from runhold.local.default_grants import set_default_grants
from runhold.local.errors import StackError
from runhold.local.lock import FolderLock, RunningStack
from runhold.local.migrations import apply_project
from runhold.local.part import Part
from runhold.local.placement import Placement, check_data_folder, choose_data_folder, place
from runhold.local.ports import LOOPBACK, free_port, require_free
from runhold.local.postgres import SUPERUSER, PostgresServer, create_database_files, start_postgres
from runhold.local.project import Migration, find_project
from runhold.local.realtime_child import start_realtime
from runhold.local.state import StackState, load_state, make_private_folder, save_state

DEFAULT_PORT = 54321
"""The API's, as in Supabase's own local stack."""

DEFAULT_DATABASE_PORT = 54322
"""PostgreSQL's, likewise; another free one is taken if it is in use."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

MIGRATION_ROLE = "postgres"
API_ROLE = "authenticator"
AUTH_ROLE = "supabase_auth_admin"


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What to start.

    `folder`: keys, logs and database files; created if absent. `project`: the folder whose `supabase/` is applied.
    `port`: of the API on loopback, 0 for any free one. `api`, `realtime`: whether these parts run; clients reach
    Realtime through the API. `seed`: whether a new database gets the seed. `durable`: False makes PostgreSQL skip
    fsync: faster, and a crash of the machine loses the database; for tests. `postgres_settings` are added to the
    server's command line.
    """

    folder: Path = Path(".runhold")
    project: Path = Path()
    port: int = DEFAULT_PORT
    api: bool = True
    realtime: bool = True
    seed: bool = True
    durable: bool = True
    postgres_settings: Mapping[str, str] = field(default_factory=dict[str, str])


class LocalStack:
    """A running stack. Its programs end with this process, however that ends.

    `applied`: the migrations that this start applied. `postgres`, `realtime` and `api`: its parts, which may be
    stopped and started singly.
    """

    def __init__(self, options: StackOptions, folder: Path, lock: FolderLock) -> None:
        self.options = options
        self.folder = folder
        self.applied: list[Migration] = []
        self.postgres = Part(self._launch_postgres, crash=signal.SIGQUIT)
        self.realtime = Part(self._launch_realtime, crash=signal.SIGKILL)
        self.api = Part(self._launch_api, crash=signal.SIGKILL)
        self._lock = lock
        self._state: StackState | None = None
        self._server: PostgresServer | None = None
        self._realtime_port: int | None = None
        self._url = ""

    @classmethod
    async def start(cls, options: StackOptions | None = None) -> LocalStack:
        """Start everything and apply what is not applied yet. If anything fails, nothing is left running.

        Raises subclasses of StackError, whose text is one sentence for the user.
        """
        options = options or StackOptions()
        folder = options.folder.absolute()
        make_private_folder(folder)
        stack = cls(options, folder, await FolderLock.acquire(folder))
        try:
            await stack._start()
        except BaseException:
            await stack.stop()
            raise
        return stack

    async def _start(self) -> None:
        if self.options.api:
            require_free(self.options.port)
        (self.folder / "logs").mkdir(mode=0o700, exist_ok=True)
        self._state = await self._prepare(place())
        await self.postgres.start()
        await bootstrap(self.superuser_url, self._kept.database_password)
        await set_default_grants(
            self.database_url, exposed=read_config(self.options.project).api.expose_new_tables
        )
        project = find_project(self.options.project)
        self.applied = await apply_project(self.database_url, project, seed=self.options.seed)
        await self._start_servers()
        self._lock.announce(
            RunningStack(
                pid=os.getpid(),
                url=self._url,
                database_url=self.database_url,
                superuser_url=self.superuser_url,
            )
        )

    async def _start_servers(self) -> None:
        """Start Realtime and the API at the same time, since each takes a while to load."""
        if self.options.realtime:
            self._realtime_port = free_port()
        wanted = {self.realtime: self.options.realtime, self.api: self.options.api}
        starting = [asyncio.create_task(part.start()) for part, wants in wanted.items() if wants]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def _launch_postgres(self) -> Child:
        state = self._kept
        # Commits stay synchronous: logical replication sees them at once then, else up to 0.4 s later.
        unsafe = {"fsync": "off", "full_page_writes": "off"}
        child, self._server = await start_postgres(
            place(),
            Path(state.data),
            log=self._log("postgres"),
            password=state.database_password,
            port=state.database_port or DEFAULT_DATABASE_PORT,
            any_port=self._server is None,
            settings={**({} if self.options.durable else unsafe), **self.options.postgres_settings},
        )
        if self._server.port != state.database_port:
            self._state = dataclasses.replace(state, database_port=self._server.port)
            save_state(self.folder, self._state)
        return child

    async def _launch_realtime(self) -> Child:
        if self._realtime_port is None:
            raise StackError("This stack was started without Realtime.")
        return await start_realtime(
            port=self._realtime_port,
            log=self._log("realtime"),
            superuser_url=self.superuser_url,
            state=self._kept,
        )

    async def _launch_api(self) -> Child:
        if not self.options.api:
            raise StackError("This stack was started without its API.")
        child, self._url = await start_api(
            log=self._log("api"),
            port=urlsplit(self._url).port or self.options.port,
            database=ApiDatabase(
                rest_url=self._found.url(API_ROLE),
                auth_url=self._found.url(AUTH_ROLE),
                catalog_url=self.database_url,
            ),
            realtime_url=None if self._realtime_port is None else f"http://{LOOPBACK}:{self._realtime_port}",
            state=self._kept,
            config=read_config(self.options.project),
        )
        return child

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    async def _prepare(self, placement: Placement) -> StackState:
        """The folder's state and its database files, both made now if they are not there."""
        state = load_state(self.folder)
        if state is None:
            data = choose_data_folder(placement, self.folder / "postgres")
            state = StackState(data=str(data))
            save_state(self.folder, state)
        data = Path(state.data)
        if not data.exists():
            if not data.parent.exists():  # it was in a folder for temporary files, and somebody tidied up
                data = choose_data_folder(placement, self.folder / "postgres")
                state = dataclasses.replace(state, data=str(data))
                save_state(self.folder, state)
            await create_database_files(placement, data, state.database_password, sync=self.options.durable)
        check_data_folder(placement, data)
        return state

    @property
    def url(self) -> str:
        """The origin of the API, `http://127.0.0.1:PORT`. Raises StackError if the stack was started without it."""
        if not self._url:
            raise StackError("This stack was started without its API.")
        return self._url

    @property
    def publishable_key(self) -> str:
        """For browsers: requests run as anon, or as the signed-in user."""
        return self._kept.publishable_key

    @property
    def secret_key(self) -> str:
        """For servers: requests run as service_role, which bypasses RLS."""
        return self._kept.secret_key

    @property
    def jwt_secret(self) -> str:
        """Signs the tokens of users (HS256)."""
        return self._kept.jwt_secret

    @property
    def database_url(self) -> str:
        """Of role postgres, which owns the project's tables and is not a superuser."""
        return self._found.url(MIGRATION_ROLE)

    @property
    def superuser_url(self) -> str:
        """Of role supabase_admin, whom users of a hosted project never get to be."""
        return self._found.url(SUPERUSER)

    @property
    def _kept(self) -> StackState:
        assert self._state is not None, "a started stack has its state"
        return self._state

    @property
    def _found(self) -> PostgresServer:
        assert self._server is not None, "a started stack has its server"
        return self._server

    def env(self) -> dict[str, str]:
        """The variables that workers, examples and clients read."""
        return environment_of(self._kept, self._url, self.database_url)

    async def wait(self) -> None:
        """Wait until a part ends that nobody stopped; raises ChildEnded, with the last lines of its log."""
        watching = [asyncio.create_task(part.ended()) for part in (self.postgres, self.realtime, self.api)]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            raise done.pop().result()
        finally:
            for task in watching:
                task.cancel()

    async def stop(self) -> None:
        """Stop the API, then Realtime (whose feed must end before its server), then PostgreSQL. Twice is harmless."""
        try:
            for part in (self.api, self.realtime, self.postgres):
                await part.stop()
        finally:
            self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def run_until_stopped(options: StackOptions, ready: Callable[[LocalStack], None]) -> None:
    """Hold a stack until SIGINT, SIGTERM or SIGHUP, which end it in order, or until a part ends: raises ChildEnded.

    `ready` is called once when everything runs. A signal during the start ends the start.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    holding = asyncio.create_task(_hold(options, ready), name="stack")
    try:
        await asyncio.wait({stopping, holding}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if holding.done():
            holding.result()
        holding.cancel()
        await asyncio.wait({holding})
        if not holding.cancelled():
            holding.result()
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def _hold(options: StackOptions, ready: Callable[[LocalStack], None]) -> None:
    async with await LocalStack.start(options) as stack:
        ready(stack)
        await stack.wait()


WORKER_CLAIMS: Final = {"role": "runhold_worker", "iss": "runhold", "exp": 4102444800}
"""Workers of a local stack have the small role, so that what it lacks is missed here first. The token ends in 2100, as
no key of the stack ends, and is the same whenever it is made."""


def environment_of(state: StackState, url: str, database_url: str) -> dict[str, str]:
    """The variables that describe a stack. SUPABASE_URL is absent if its API does not run."""
    return {
        **({"SUPABASE_URL": url} if url else {}),
        "SUPABASE_PUBLISHABLE_KEY": state.publishable_key,
        "SUPABASE_SECRET_KEY": state.secret_key,
        "RUNHOLD_WORKER_TOKEN": jwt.encode(WORKER_CLAIMS, state.jwt_secret, algorithm="HS256"),
        "SUPABASE_JWT_SECRET": state.jwt_secret,
        "DATABASE_URL": database_url,
    }
