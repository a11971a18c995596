"""Settings of the local Realtime server."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from runhold.local.realtime.errors import RealtimeStartError


@dataclass(frozen=True, kw_only=True, slots=True)
class RealtimeConfig:
    """What the server needs to know. Secrets stay out of `repr`.

    `database_url`: libpq URL or key/value string of a role that is superuser, or has REPLICATION and is a
    member of the API roles. `jwt_secret`: shared secret of HS256/384/512 tokens. `publishable_key` and
    `secret_key`: the opaque API keys, standing for the roles anon and service_role. `host`, `port`: where to
    listen; port 0 = any free one. `clock`: seconds since 1970, read for token expiry only.

    Raises RealtimeStartError naming the field that cannot be used.
    """

    database_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for name in ("database_url", "jwt_secret", "publishable_key", "secret_key", "host"):
            if not getattr(self, name):
                raise RealtimeStartError(f"{name} is empty: set it")
        if self.publishable_key == self.secret_key:
            raise RealtimeStartError(
                "publishable_key and secret_key are equal: give the secret one its own value"
            )
        if not 0 <= self.port <= 65535:
            raise RealtimeStartError(f"port is {self.port}: use 0 (any free one) to 65535")
        try:
            conninfo_to_dict(self.database_url)
        except ProgrammingError as exc:
            raise RealtimeStartError("database_url is not a libpq connection string") from exc
