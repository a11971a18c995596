"""What the worker RPCs answer, and JSON → records: answers are validated here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import convert
from pydantic import TypeAdapter, ValidationError

from runhold.errors import StoreError
from runhold.loop import RecordedRun
from runhold.loop.ports import (
    Definition,
    JsonObject,
    PersonMessage,
    Reserved,
    Review,
    Run,
    Started,
    Step,
    ToolCall,
    Verdict,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeSettings:
    """What an operator says about an agent type, in force at once.

    :ivar enabled: false is the kill switch.
    :ivar approval_tools: tools that need a person's approval, whatever the agent's code says.
    """

    enabled: bool = True
    approval_tools: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """The answer to ``agent_worker_register``.

    :ivar definitions: agent type → id of the definition that this worker runs.
    :ivar lease_ms: length of the lease in milliseconds, counted from *sending* the request.
    :ivar now: the database's time.
    """

    definitions: Mapping[str, UUID]
    lease_ms: int
    schema_version: int = 1
    types_version: int = 0
    types: Mapping[str, TypeSettings] = field(default_factory=dict[str, TypeSettings])
    now: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """A message of the outbox that is due.

    :ivar channel: how it is sent: ``webhook`` or ``email``.
    :ivar target: where to, as ``agent_types.notify`` says for the channel.
    :ivar body: the event as JSON, always the same bytes.
    :ivar attempt: counted from 1.
    """

    id: UUID
    channel: str
    target: Mapping[str, Any]
    body: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPrice:
    """A row of ``model_prices``: USD per million tokens.

    :ivar valid_from: None: always.
    """

    model: str
    valid_from: datetime | None = None
    input_usd: Decimal
    cached_input_usd: Decimal
    output_usd: Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class UserClaims:
    """The answer to ``agent_worker_user_claims``.

    :ivar claims: what the token of a run's user carries, but for ``iss``, ``iat`` and ``exp``.
    :ivar now: the database's time, to sign with.
    """

    claims: Mapping[str, Any]
    now: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """The answer to ``agent_worker_heartbeat``.

    :ivar lease_ms: length of the renewed lease in milliseconds, counted from *sending* the request.
    :ivar cancelled: runs of ours whose cancellation was requested.
    :ivar lost: runs that we said we hold and that are not ours.
    :ivar notification_due_ms: until reviewers are to be told of something; None: of nothing now.
    """

    lease_ms: int
    cancelled: Sequence[UUID] = ()
    lost: Sequence[UUID] = ()
    types_version: int = 0
    types: Mapping[str, TypeSettings] = field(default_factory=dict[str, TypeSettings])
    notification_due_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableRun:
    """A claimed run whose record makes no sense here: give it back, it must not block the others.

    :ivar agent_type: "unknown" if not even that could be read; so is a ``fence`` of 0.
    """

    id: UUID
    agent_type: str
    fence: int
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The answer to ``agent_worker_claim``.

    :ivar truncated: runs that came without their lists: ``agent_worker_log`` returns them whole.
    :ivar next_due: the earliest ``wake_at`` of a pending run that is not due yet.
    :ivar more: another claim at once may find more.
    """

    runs: Sequence[Run]
    truncated: Sequence[Run]
    unreadable: Sequence[UnreadableRun]
    next_due: datetime | None
    more: bool


_registration: Final = TypeAdapter(Registration)
_heartbeat: Final = TypeAdapter(Heartbeat)
_notifications: Final = TypeAdapter(list[Notification])
_prices: Final = TypeAdapter(list[ModelPrice])
_user_claims: Final = TypeAdapter(UserClaims | None)
_time: Final = TypeAdapter(datetime | None)
_uuid: Final = TypeAdapter(UUID)

_USAGE: Final = ("input_tokens", "output_tokens", "cached_tokens")
_OK: Final = Verdict(kind="ok")
_OK_BUDGETED: Final = Verdict(kind="ok", budgeted=True)
_KINDS: Final = frozenset({"ok", "stop", "continue", "fenced"})


def read_registration(answer: Any) -> Registration:
    """Validate the answer of ``agent_worker_register``."""
    return _validated(_registration, _with_types(answer), "agent_worker_register")


def read_heartbeat(answer: Any) -> Heartbeat:
    """Validate the answer of ``agent_worker_heartbeat``."""
    return _validated(_heartbeat, _with_types(answer), "agent_worker_heartbeat")


def read_notifications(answer: Any) -> list[Notification]:
    """Validate the answer of ``agent_worker_notifications``."""
    return _validated(_notifications, answer, "agent_worker_notifications")


def read_definitions(answer: Any) -> list[Definition]:
    """Validate the answer of ``agent_worker_definitions``."""
    try:
        return convert(answer, list[Definition])
    except msgspec.ValidationError as error:
        raise _malformed("agent_worker_definitions", error) from error


def read_prices(answer: Any) -> list[ModelPrice]:
    """Validate the answer of ``agent_worker_prices``."""
    return _validated(_prices, answer, "agent_worker_prices")


def read_user_claims(answer: Any) -> UserClaims | None:
    """Validate the answer of ``agent_worker_user_claims``."""
    return _validated(_user_claims, answer, "agent_worker_user_claims")


def read_claim(answer: Any) -> Claim:
    """Validate the answer of ``agent_worker_claim``, run by run: a broken run does not spoil the others."""
    body = _given(answer)
    runs: list[Run] = []
    truncated: list[Run] = []
    unreadable: list[UnreadableRun] = []
    for raw in cast("list[Any]", body.get("runs") or []):
        try:
            given = _given(raw)
            (truncated if given.get("truncated") else runs).append(_read_run(given))
        except (msgspec.ValidationError, StoreError, KeyError, TypeError) as error:
            unreadable.append(_unreadable(raw, error))
    return Claim(
        runs=runs,
        truncated=truncated,
        unreadable=unreadable,
        next_due=_validated(_time, body.get("next_due"), "agent_worker_claim"),
        more=bool(body.get("more")),
    )


def read_run(answer: Any) -> Run:
    """Validate the answer of ``agent_worker_log``."""
    try:
        return _read_run(_given(answer))
    except msgspec.ValidationError as error:
        raise _malformed("agent_worker_log", error) from error


def read_recorded_run(answer: Any) -> RecordedRun:
    """Validate ``{input, steps, calls, definitions}``: rows as claims and ``agent_worker_definitions`` write them.

    :raises StoreError: they are not what this version understands.
    """
    given = _given(answer)
    try:
        return RecordedRun(
            input=given["input"],
            steps=convert([_step(row) for row in _rows(given, "steps")], list[Step]),
            calls=convert(_rows(given, "calls"), list[ToolCall]),
            definitions={one.id: one for one in read_definitions(given.get("definitions") or [])},
        )
    except msgspec.ValidationError as error:
        raise _malformed("a run's tables", error) from error


def read_verdict(raw: JsonObject) -> Verdict:
    """Validate one verdict of ``agent_worker_record`` that concerns the run (not ``busy`` or ``gap``)."""
    if raw["verdict"] == "ok" and not any(
        raw.get(key) for key in ("started", "messages", "cancel_requested", "calls", "reviews", "reserved")
    ):
        return _OK_BUDGETED if raw.get("budgeted") else _OK  # nearly all of them
    kind = raw["verdict"]
    if kind not in _KINDS:
        raise StoreError(f"agent_worker_record answered an unknown verdict: {kind!r}")
    try:
        return Verdict(
            kind=kind,
            code=raw.get("code"),
            detail=raw.get("detail"),
            cancel_requested=bool(raw.get("cancel_requested")),
            started=convert(_rows(raw, "started"), list[Started]),
            calls=convert(_rows(raw, "calls"), list[ToolCall]),
            reviews=convert(_rows(raw, "reviews"), list[Review]),
            messages=convert(_rows(raw, "messages"), list[PersonMessage]),
            budgeted=bool(raw.get("budgeted")),
            reserved=convert(_given(raw["reserved"]), Reserved) if raw.get("reserved") else None,
        )
    except msgspec.ValidationError as error:
        raise _malformed("agent_worker_record", error) from error


def _read_run(given: JsonObject) -> Run:
    defaults: JsonObject = {"tenant_id": None, "outage_since": None, "state": {}, "limits": {}}
    defaults |= {
        "active_ms": 0,
        "cost_usd": 0.0,
        "cancel_requested": False,
        "approval_tools": (),
        "budgeted": False,
    }
    lists = {
        "steps": [_step(row) for row in _rows(given, "steps")],
        "calls": _rows(given, "calls"),
        "reviews": _rows(given, "reviews"),
        "messages": _rows(given, "messages"),
    }
    return convert(defaults | given | lists, Run)


def _step(given: JsonObject) -> JsonObject:
    usage: JsonObject = {name: given.get(name) or 0 for name in _USAGE}
    return {**given, "usage": {**usage, "estimated": bool(given.get("usage_estimated"))}}


def _with_types(answer: Any) -> JsonObject:
    body = _given(answer)
    types = _given(body.get("types") or {})
    return {**body, "types": {name: _given(settings) for name, settings in types.items()}}


def _rows(given: JsonObject, name: str) -> list[JsonObject]:
    """The list under ``name``, nulls within its rows taken as absent."""
    return [_given(row) for row in given.get(name) or ()]


def _given(value: Any) -> JsonObject:
    """A JSON object without its nulls: absent and null mean the same."""
    if not isinstance(value, dict):
        raise StoreError(f"the database answered {type(value).__name__} where an object was expected")
    return {key: item for key, item in cast("JsonObject", value).items() if item is not None}


def _unreadable(raw: Any, error: Exception) -> UnreadableRun:
    try:
        run_id = _uuid.validate_python(raw["id"])
    except (ValidationError, KeyError, TypeError) as nameless:
        raise StoreError("agent_worker_claim answered a run without an id") from nameless
    agent_type: Any = raw.get("agent_type")
    fence: Any = raw.get("fence")
    return UnreadableRun(
        id=run_id,
        agent_type=agent_type if isinstance(agent_type, str) else "unknown",
        fence=fence if isinstance(fence, int) else 0,
        problem=_reason(error),
    )


def _validated(adapter: TypeAdapter[T], value: Any, function: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _malformed(function, error) from error


def _malformed(function: str, error: Exception) -> StoreError:
    return StoreError(
        f"the answer of {function} is not what this worker understands ({_reason(error)}): "
        "the migrations and the worker are of different versions"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
