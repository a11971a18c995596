"""What new objects in schema public are granted to the roles of the REST API, without a word in a migration."""

from __future__ import annotations

from typing import Final, LiteralString

import psycopg

from runhold.local.errors import StackError

API_ROLES: Final = "anon, authenticated, service_role"
KINDS: Final[tuple[LiteralString, ...]] = ("tables", "sequences", "functions")


async def set_default_grants(database_url: str, *, exposed: bool) -> None:
    """Grant all on what role postgres will create in public (`exposed`), or nothing, as projects have it since 2026.

    `database_url`: of role postgres. Objects that exist keep their grants.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(database_url)
    except psycopg.OperationalError as error:
        raise StackError(f"The database cannot be reached: {error}") from error
    async with connection:
        for kind in KINDS:
            change = f"grant all on {kind} to" if exposed else f"revoke all on {kind} from"
            await connection.execute(f"alter default privileges in schema public {change} {API_ROLES}")
