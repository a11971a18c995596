"""Reads a project's `supabase/config.toml`: those settings of the Supabase CLI that the local stack respects."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from runhold.local.errors import StackError

FROM_ENVIRONMENT = re.compile(r"env\((\w+)\)")

AUTH_SETTINGS: Final[dict[str, type]] = {
    "site_url": str,
    "additional_redirect_urls": list,
    "jwt_expiry": int,
    "enable_signup": bool,
    "enable_anonymous_sign_ins": bool,
    "minimum_password_length": int,
    "password_requirements": str,
    "email.enable_signup": bool,
    "email.enable_confirmations": bool,
    "email.double_confirm_changes": bool,
    "email.otp_length": int,
    "email.otp_expiry": int,
    "sessions.timebox": str,
    "sessions.inactivity_timeout": str,
}
"""Settings of section `[auth]` and its subsections, by dotted name. The API passes them on to @supabase/lite, which
has the same names."""


ALWAYS_EXPOSED = "public"
"""Schema that the Supabase CLI adds to both lists of section `[api]`, in the first place."""


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """Section `[api]`, with the defaults of the Supabase CLI.

    `expose_new_tables`: whether new tables, sequences and functions in schema public are granted to the API's roles,
    as on projects from before October 2026.
    """

    schemas: tuple[str, ...] = (ALWAYS_EXPOSED, "graphql_public")
    extra_search_path: tuple[str, ...] = (ALWAYS_EXPOSED, "extensions")
    max_rows: int = 1000
    expose_new_tables: bool = False


@dataclass(frozen=True, kw_only=True)
class ProjectConfig:
    """What a project has configured. `auth`: nested like the file, only what the file states."""

    auth: Mapping[str, Any] = field(default_factory=dict[str, Any])
    api: ApiConfig = field(default_factory=ApiConfig)


WITHOUT_FILE: Final = ProjectConfig(auth={"enable_anonymous_sign_ins": True})
"""A folder without the file has decided nothing, so what is opt-in on Supabase can be tried at once."""


def read_config(folder: Path) -> ProjectConfig:
    """Read the configuration of the project in `folder`. Raises StackError if it can't be understood."""
    path = folder / "supabase" / "config.toml"
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return WITHOUT_FILE
    except PermissionError as error:
        raise StackError(f"{path} cannot be read: it belongs to another user.") from error
    except ValueError as error:
        raise StackError(f"{path} is not valid TOML: {error}.") from error
    auth: dict[str, Any] = {}
    for name, kind in AUTH_SETTINGS.items():
        value = _setting(document, f"auth.{name}", kind, path)
        if value is not None:
            section, _, key = name.rpartition(".")
            (auth.setdefault(section, {}) if section else auth)[key] = value
    return ProjectConfig(auth=auth, api=_read_api(document, path))


def _read_api(document: Mapping[str, Any], path: Path) -> ApiConfig:
    def names(setting: str, default: tuple[str, ...]) -> tuple[str, ...]:
        given = _setting(document, f"api.{setting}", list, path)
        if given is None:
            return default
        schemas = [str(name) for name in cast("list[object]", given)]
        return tuple(dict.fromkeys([ALWAYS_EXPOSED, *schemas]))

    defaults = ApiConfig()
    max_rows = _setting(document, "api.max_rows", int, path)
    return ApiConfig(
        schemas=names("schemas", defaults.schemas),
        extra_search_path=names("extra_search_path", defaults.extra_search_path),
        max_rows=defaults.max_rows if max_rows is None else cast("int", max_rows),
        expose_new_tables=bool(_setting(document, "api.auto_expose_new_tables", bool, path)),
    )


def _setting(document: Mapping[str, Any], name: str, kind: type, path: Path) -> object:
    """The value of a dotted name, None if the file does not state it; `env(NAME)` is an environment variable's."""
    value: object = document
    for part in name.split("."):
        if not isinstance(value, dict):
            raise StackError(
                f"{path}: the parts of {name} must be sections and settings, and one is {value!r}."
            )
        value = cast("dict[str, object]", value).get(part)
        if value is None:
            return None
    shown = repr(value)
    if isinstance(value, str) and (match := FROM_ENVIRONMENT.fullmatch(value)):
        value, shown = os.environ.get(match[1], ""), value  # a value of the environment may be a secret
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StackError(f"{path}: {name} is {shown}, and the local stack needs {_called(kind)} there.")
    return value


def _called(kind: type) -> str:
    names = {str: "a string", int: "a number", bool: "true or false", list: "a list"}
    return names[kind]
