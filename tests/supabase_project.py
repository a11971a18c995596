"""The Supabase project that the stack tests use: a local stack, or one that the environment names.

`RUNHOLD_TEST_URL` and the other `RUNHOLD_TEST_…` variables name an external project: hosted, `supabase start`, or any
other. Tests use what both kinds have, which is `Project`; a test that needs more requests the fixture `local_stack`
or has the marker of that name, and is skipped on an external project.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import jwt
import psycopg
from psycopg import sql

from runhold.errors import APPLY_MIGRATIONS
from runhold.runtime.registration import SCHEMA_VERSION

VARIABLES = {
    "url": "RUNHOLD_TEST_URL",
    "publishable_key": "RUNHOLD_TEST_PUBLISHABLE_KEY",
    "secret_key": "RUNHOLD_TEST_SECRET_KEY",
    "jwt_secret": "RUNHOLD_TEST_JWT_SECRET",
    "database_url": "RUNHOLD_TEST_DATABASE_URL",
}
OPTIONAL = "jwt_secret"
"""What a project with asymmetric signing keys lacks: tests that use the fixture `signs_tokens` are skipped then."""

TEST_EMAIL = "%@example.org"
"""Addresses of the users that tests sign up, as a pattern. The domain is reserved, so nobody else has one there."""

MADE_BY_TESTS = "made_by_runhold_tests"
"""Key in the metadata of anonymous users, who have no address."""

OPERATORS_TABLES = ("runhold.settings", "public.agent_types")
"""What a test may set for a while. Rows that were there before the tests must be the same after them."""

WRITTEN_BY_WORKERS = ["changed", "definition_id", "description", "input_schema"]
"""Columns of these tables that change when a worker registers."""

TESTS_HOSTS = [socket.gethostname(), "t", "h"]
"""Hosts of the workers that tests register: this machine, and two names that tests make up."""

EVER = datetime(1, 1, 1, tzinfo=UTC)
TIMEOUT_S = 30.0
TOKEN_S = 30 * 86400
"""Longer than the time before its end in which `runhold doctor` warns of a token."""


class Project(Protocol):
    """Where a Supabase project is, and what opens it. `LocalStack` is one, `ExternalProject` another."""

    @property
    def url(self) -> str:
        """The origin of its API."""
        ...

    @property
    def publishable_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...

    @property
    def jwt_secret(self) -> str:
        """Signs tokens (HS256); on hosted projects the legacy JWT secret."""
        ...

    @property
    def database_url(self) -> str:
        """Of role postgres, which is no superuser."""
        ...

    def env(self) -> dict[str, str]:
        """The variables that workers, examples and clients read."""
        ...


class Refused(Exception):
    """The tests must not or can't run on this project; the text is one sentence for the user, without a secret."""


@dataclass(kw_only=True)
class ExternalProject:
    """A project that these tests did not start and leave as they found it, as far as SQL can."""

    url: str
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    """Empty if the project has none."""
    database_url: str = field(repr=False)
    began_at: datetime = field(default=EVER, init=False)
    _before: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def taken_from(
        cls, environment: MutableMapping[str, str], *, required: bool = False
    ) -> ExternalProject | None:
        """Return the project that the variables name, and remove them, so that no process of a test inherits them.

        :param required: whether it is an error that no variable is set; otherwise None is returned.
        :raises Refused: some variables are set, and others are not.
        """
        given = {name: environment.pop(variable, "").strip() for name, variable in VARIABLES.items()}
        if not required and not any(given.values()):
            return None
        missing = [VARIABLES[name] for name, value in given.items() if not value and name != OPTIONAL]
        if missing:
            raise Refused(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: tests on an external "
                f"project need every RUNHOLD_TEST_… variable but {VARIABLES[OPTIONAL]} "
                "(docs/guides/test-against-supabase.md)."
            )
        parts = urlsplit(given["url"])
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("RUNHOLD_TEST_URL is not a URL like https://REFERENCE.supabase.co.")
        return cls(**{**given, "url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"})

    @property
    def reference(self) -> str:
        """The project's reference on supabase.co; elsewhere its host and port."""
        host, _, domain = (urlsplit(self.url).hostname or "").partition(".")
        return host if domain == "supabase.co" else urlsplit(self.url).netloc

    @cached_property
    def worker_token(self) -> str:
        """A token of the workers' small role."""
        claims = {"role": "runhold_worker", "iss": "runhold", "exp": int(time.time()) + TOKEN_S}
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")

    def env(self) -> dict[str, str]:
        """What workers read. Without the JWT secret they have the secret key, and their agents don't act as users."""
        env = {
            "SUPABASE_URL": self.url,
            "SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "SUPABASE_SECRET_KEY": self.secret_key,
            "DATABASE_URL": self.database_url,
        }
        if self.jwt_secret:
            env |= {"RUNHOLD_WORKER_TOKEN": self.worker_token, "SUPABASE_JWT_SECRET": self.jwt_secret}
        return env

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as role postgres.

        :raises Refused: without the driver's text, which may repeat parts of a URL that can't be parsed.
        """
        try:
            return psycopg.connect(self.database_url, autocommit=True, connect_timeout=int(TIMEOUT_S))
        except psycopg.Error as error:
            cause = (
                "the password is wrong" if "password authentication failed" in str(error) else "no connection"
            )
            raise Refused(
                f"RUNHOLD_TEST_DATABASE_URL does not open the database ({cause}): it must be the URL of the direct "
                "connection or of the session pooler, with the password of role postgres, special characters encoded."
            ) from None

    def check(self, repeated: str | None) -> None:
        """Refuse a project on which the tests can't run, or might harm somebody.

        :param repeated: the reference that was given on the command line, if any.
        :raises Refused: the first thing that is wrong.
        """
        if repeated and repeated != self.reference:
            raise Refused(
                f"The project reference {repeated} was given, but RUNHOLD_TEST_URL is project {self.reference}."
            )
        with self.connect() as connection:
            _require_schema(connection)
            _require_apis(self)
            found = connection.execute("select count(*) from public.agent_executions").fetchone()
            assert found is not None
            if found[0] and not repeated:
                raise Refused(
                    f"Project {self.reference} contains {found[0]} run(s): if the tests may use it nevertheless, repeat "
                    f"its reference, make test-external REF={self.reference} (pytest --project-ref {self.reference})."
                )
            _require_same_project(self, connection)

    def begin(self) -> None:
        """Note what there is, so that `end` finds what the tests left."""
        with self.connect() as connection:
            row = connection.execute("select clock_timestamp()").fetchone()
            assert row is not None
            self.began_at = row[0]
            self._before = _rows_of_operators(connection)

    def end(self) -> list[str]:
        """Delete the users that the tests made, all that belongs to them, and the workers that ran here.

        :return: what a test set for a while and did not set back, as `table row`.
        """
        with self.connect() as connection:
            users = _users_since(connection, self.began_at)
            connection.execute("delete from public.agent_executions where user_id = any (%s)", [users])
            connection.execute("delete from auth.users where id = any (%s)", [users])
            connection.execute(
                "delete from public.agent_usage where scope = 'user' and scope_key = any (%s::text[])",
                [[str(user) for user in users]],
            )
            connection.execute(
                "delete from public.agent_workers where started_at >= %s and hostname = any (%s)",
                [self.began_at, TESTS_HOSTS],
            )
            after = _rows_of_operators(connection)
        return [
            f"{table} {key}"
            for table, rows in self._before.items()
            for key, row in rows.items()
            if after[table].get(key) != row
        ]


def began_at(project: Project) -> datetime:
    """Return since when what tests find in the project is their own: always, in a local stack."""
    return project.began_at if isinstance(project, ExternalProject) else EVER


def forget_runs(project: Project, *, keep: Iterable[str] = ()) -> None:
    """Delete the runs that tests started, so that later tests' workers don't find them, and nobody else's."""
    with psycopg.connect(project.database_url, autocommit=True) as connection:
        if not isinstance(project, ExternalProject):
            connection.execute("delete from public.agent_executions where id <> all (%s::uuid[])", [[*keep]])
            return
        users = _users_since(connection, project.began_at)
        connection.execute(
            "delete from public.agent_executions where user_id = any (%s) and id <> all (%s::uuid[])",
            [users, [*keep]],
        )


def _users_since(connection: psycopg.Connection[Any], since: datetime) -> list[UUID]:
    query = (
        "select id from auth.users"
        " where (email like %s or is_anonymous and raw_user_meta_data ? %s) and created_at >= %s"
    )
    return [row[0] for row in connection.execute(query, [TEST_EMAIL, MADE_BY_TESTS, since])]


def _require_schema(connection: psycopg.Connection[Any]) -> None:
    apply = (
        f"run {APPLY_MIGRATIONS}, or with a URL `supabase db push --db-url URL`, then start the tests again."
    )
    try:
        row = connection.execute("select runhold.schema_version()").fetchone()
    except psycopg.Error:
        raise Refused(f"Runhold's migrations are not applied to this project: {apply}") from None
    if row is None or row[0] < SCHEMA_VERSION:
        raise Refused(
            f"The project's migrations are older than these tests (version {SCHEMA_VERSION}): {apply}"
        )
    if row[0] > SCHEMA_VERSION:
        raise Refused(
            f"The project's migrations are newer than these tests (version {SCHEMA_VERSION}): update this checkout."
        )


def _require_apis(project: ExternalProject) -> None:
    """Refuse keys that don't open the project, and sign-ups that don't sign in."""
    public = {"apikey": project.publishable_key}
    settings = _answer(f"{project.url}/auth/v1/settings", public)
    if settings.status_code != 200:
        _refuse_key("publishable_key", settings)
    says = settings.json()
    if says.get("disable_signup") or not says.get("mailer_autoconfirm", True):
        raise Refused(
            "Sign-ups of this project are disabled or need a confirmed e-mail: in Authentication, Sign In / Providers, "
            'allow new users to sign up and switch off "Confirm email", then start the tests again.'
        )
    rows = f"{project.url}/rest/v1/agent_workers?select=id&limit=1"  # which only service_role may read
    secret = _answer(rows, _bearing(project.secret_key))
    if secret.status_code != 200:
        _refuse_key("secret_key", secret)
    if not project.jwt_secret:
        return
    signed = _answer(rows, {**public, "authorization": f"Bearer {project.worker_token}"})
    if signed.status_code == 401:  # 403: the token is good, and its role may not read this table
        _refuse_key("jwt_secret", signed)


def _require_same_project(project: ExternalProject, connection: psycopg.Connection[Any]) -> None:
    """Refuse a database URL of another project than the API's: a user that the API makes must be in the database."""
    users = f"{project.url}/auth/v1/admin/users"
    body = {
        "email": TEST_EMAIL.replace("%", f"probe-{uuid4()}"),
        "password": str(uuid4()),
        "email_confirm": True,
    }
    try:
        made = httpx.post(users, headers=_bearing(project.secret_key), json=body, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Refused(f"Auth does not answer ({type(error).__name__}): {project.url}.") from None
    if made.status_code not in (200, 201):
        raise Refused(f"Auth made no user with RUNHOLD_TEST_SECRET_KEY: it answered {made.status_code}.")
    user = made.json()["id"]
    found = connection.execute("select from auth.users where id = %s", [user]).fetchone()
    httpx.delete(f"{users}/{user}", headers=_bearing(project.secret_key), timeout=TIMEOUT_S)
    if found is None:
        raise Refused(
            "RUNHOLD_TEST_DATABASE_URL is the database of another project than RUNHOLD_TEST_URL: a user made by the one "
            "is not in the other."
        )


def _bearing(key: str) -> dict[str, str]:
    """Headers with a key as the clients send it."""
    return {"apikey": key, "authorization": f"Bearer {key}"}


def _answer(url: str, headers: dict[str, str]) -> httpx.Response:
    try:
        return httpx.get(url, headers=headers, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Refused(
            f"RUNHOLD_TEST_URL does not answer ({type(error).__name__}): {urlsplit(url).netloc}."
        ) from None


def _refuse_key(name: str, answer: httpx.Response) -> NoReturn:
    raise Refused(
        f"{VARIABLES[name]} is not this project's: {urlsplit(str(answer.url)).path} answered {answer.status_code}."
    )


def _rows_of_operators(connection: psycopg.Connection[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in OPERATORS_TABLES:
        name = sql.Identifier(*table.split("."))
        query = sql.SQL("select t.name, to_jsonb(t) - %s::text[] from {} t").format(name)
        found[table] = dict(connection.execute(query, [WRITTEN_BY_WORKERS]).fetchall())
    return found
