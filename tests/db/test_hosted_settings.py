"""Settings that the roles and the server of a hosted Supabase project have, and how each of them is covered here.

Sources: supabase/postgres (``migrations/db/init-scripts``, ``migrations/db/migrations``, the configuration of its image) and
Supabase's documentation of time-outs and PostgREST settings, read in 2026. What a project itself may set (``alter role … set``) is
included, as far as it changes answers.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from world import World

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "local-stack.md"


@dataclass(frozen=True)
class Reproduced:
    """The local stack has the same. ``here``: its value, where it is written otherwise."""

    here: Any = None


@dataclass(frozen=True)
class Checked:
    """A test has it in force: ``file::function``."""

    test: str


@dataclass(frozen=True)
class Documented:
    """The guide of the local stack says that it differs, by the setting's name."""


PGRST_TESTS = "".join(
    path.read_text("utf-8") for path in sorted((ROOT / "tests/stack/local").glob("*postgrest.*"))
)
"""What sets PostgREST's settings and looks at the answers."""

SAFE_UPDATE = Checked(
    "tests/stack/runs/test_hosted_rules.py::test_the_api_refuses_an_update_or_delete_without_where_in_a_definers_function"
)
SAFE_FILES = Checked("tests/db/test_safe_update.py::test_no_file_updates_or_deletes_without_a_condition")

# role → setting → (hosted value, how it is covered); "*" is the server
SETTINGS: Mapping[str, Mapping[str, tuple[str, Reproduced | Checked | Documented]]] = {
    "authenticator": {
        "session_preload_libraries": ("supautils, safeupdate", SAFE_UPDATE),
        "statement_timeout": ("8s", Reproduced()),
        "lock_timeout": ("8s", Reproduced()),
        "plan_filter.statement_cost_limit": ("set by a project", Documented()),
    },
    "anon": {"statement_timeout": ("3s", Reproduced())},
    "authenticated": {"statement_timeout": ("8s", Reproduced())},
    "service_role": {"statement_timeout": ("none: authenticator's 8s holds", Reproduced())},
    "postgres": {
        "session_preload_libraries": ("supautils, safeupdate", SAFE_FILES),
        "safeupdate.enabled": ("0", SAFE_FILES),
        "search_path": ('"$user", public, extensions', Reproduced()),
    },
    "supabase_admin": {"search_path": ('"$user", public, auth, extensions', Reproduced())},
    "supabase_auth_admin": {
        "search_path": ("auth", Reproduced()),
        "idle_in_transaction_session_timeout": ("60000", Reproduced("60s")),
    },
    "supabase_storage_admin": {"search_path": ("storage", Documented())},
    "pgbouncer": {"search_path": ("''", Documented())},
    "supabase_read_only_user": {"default_transaction_read_only": ("on", Documented())},
    "*": {
        "wal_level": ("logical", Reproduced()),
        "password_encryption": ("scram-sha-256", Reproduced()),
        "TimeZone": ("UTC", Reproduced()),
        "statement_timeout": ("2min", Documented()),
        "shared_preload_libraries": (
            "pg_stat_statements, pgaudit, pg_cron, pg_net, supautils and others",
            Documented(),
        ),
        "session_preload_libraries": ("supautils", Documented()),
        "supautils.reserved_roles": ("supabase_admin, supabase_realtime_admin and others", Documented()),
        "app.settings.jwt_secret": ("older projects", Documented()),
        "default_transaction_read_only": (
            "on when the disk is full",
            Checked(
                "tests/stack/runs/test_answers.py::test_a_ready_worker_outlives_every_answer_and_says_each_cause_once"
            ),
        ),
    },
}

# settings of PostgREST that a project may change by `alter role authenticator set pgrst.…`
PGRST: Mapping[str, Reproduced | Documented] = {
    **dict.fromkeys(
        (
            "db_schemas",
            "db_extra_search_path",
            "db_max_rows",
            "db_pre_request",
            "db_tx_end",
            "db_plan_enabled",
            "db_aggregates_enabled",
        ),
        Reproduced(),
    ),
    **dict.fromkeys(
        (
            "db_root_spec",
            "openapi_mode",
            "openapi_security_active",
            "server_cors_allowed_origins",
            "server_timing_enabled",
            "server_trace_header",
            "jwt_role_claim_key",
            "jwt_aud",
            "jwt_secret_is_base64",
            "log_level",
        ),
        Documented(),
    ),
}

ATTRIBUTES: Mapping[str, Mapping[str, bool]] = {
    "anon": {"rolinherit": True, "rolcanlogin": False, "rolbypassrls": False},
    "authenticated": {"rolinherit": True, "rolcanlogin": False, "rolbypassrls": False},
    "service_role": {"rolinherit": True, "rolcanlogin": False, "rolbypassrls": True},
    "authenticator": {"rolinherit": False, "rolcanlogin": True, "rolsuper": False},
    "postgres": {
        "rolsuper": False,
        "rolcreatedb": True,
        "rolcreaterole": True,
        "rolreplication": True,
        "rolbypassrls": True,
    },
    "supabase_admin": {"rolsuper": True},
    "supabase_auth_admin": {"rolinherit": False, "rolsuper": False, "rolcreaterole": False},
}

ENTRIES = [
    (role, name, *entry) for role, settings in SETTINGS.items() for name, entry in settings.items()
] + [("authenticator", f"pgrst.{name}", "set by a project", how) for name, how in PGRST.items()]


def own_settings(world: World) -> dict[str, dict[str, str]]:
    """What each role of the local stack has set, by role and name."""
    rows = world.sql(
        "select r.rolname, c.setting from pg_db_role_setting s join pg_roles r on r.oid = s.setrole"
        " cross join unnest(s.setconfig) c(setting)"
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name, _, value = row["setting"].partition("=")
        found.setdefault(row["rolname"], {})[name] = value
    return found


@pytest.mark.parametrize(("role", "name", "value", "how"), ENTRIES, ids=[f"{e[0]}-{e[1]}" for e in ENTRIES])
def test_a_hosted_setting_is_reproduced_checked_or_documented(
    world: World, role: str, name: str, value: str, how: Reproduced | Checked | Documented
) -> None:
    match how:
        case Reproduced() if name.startswith("pgrst."):
            assert world.one("select has_parameter_privilege('postgres', %s, 'set')", name), (
                "no migration can set it"
            )
            assert name in PGRST_TESTS, f"no test sets {name}"
        case Reproduced() if role == "*":
            assert world.one("select current_setting(%s)", name) == value
        case Reproduced() if value.startswith("none"):
            assert name not in own_settings(world).get(role, {})
        case Reproduced(here):
            assert own_settings(world)[role][name] == (here or value)
        case Checked(test):
            path, _, function = test.partition("::")
            tree = ast.parse((ROOT / path).read_text("utf-8"))
            names = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in names, f"{test} is gone: what checks {name} of {role} now?"
        case Documented():
            assert f"`{name}`" in section("Settings of a hosted project's roles"), (
                f"{GUIDE.name} does not name {name}"
            )


@pytest.mark.parametrize("role", ATTRIBUTES)
def test_roles_have_the_attributes_of_hosted_ones(world: World, role: str) -> None:
    (row,) = world.sql("select * from pg_roles where rolname = %s", role)
    assert {name: row[name] for name in ATTRIBUTES[role]} == ATTRIBUTES[role]


def test_the_api_may_become_its_roles_and_inherits_none(world: World) -> None:
    rows = world.sql(
        "select g.rolname, m.inherit_option, m.set_option from pg_auth_members m"
        " join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member where r.rolname = 'authenticator'"
    )
    members = {row["rolname"]: (row["inherit_option"], row["set_option"]) for row in rows}
    assert members == dict.fromkeys(
        ("anon", "authenticated", "service_role", "runhold_worker"), (False, True)
    )


def test_what_the_local_stack_sets_is_in_the_list(world: World) -> None:
    """So that a setting which is added here gets its hosted value noted."""
    extra = {
        (role, name)
        for role, settings in own_settings(world).items()
        for name in settings
        if name not in SETTINGS.get(role, {})
    }
    assert extra == {("authenticator", "search_path")}  # as PostgREST's own default does


def section(title: str) -> str:
    """The guide's text below a heading, to the next one."""
    _, _, rest = GUIDE.read_text("utf-8").partition(f"## {title}\n")
    return rest.partition("\n## ")[0].partition("\n### ")[0]
