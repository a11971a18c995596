"""What a worker is about to do, or has just done, as its requests tell it: no hook in the product is needed.

The moments of a run, in the order of its life:

    claim → step (+ intent, + ask) → start → [effect, mail: see the sinks] → result → … → complete, fail, cancel
                                       ↑                                           pause, release
                                       └ taking an approval, or another attempt

and the calls themselves, by name: register, claim, log, record, heartbeat, release_runs, stop, sweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, cast, get_args

Moment = Literal[
    "register",
    "claim",
    "log",
    "record",
    "heartbeat",
    "release_runs",
    "stop",
    "sweep",
    "definitions",
    "step",
    "intent",
    "ask",
    "start",
    "result",
    "pause",
    "complete",
    "fail",
    "cancel",
    "release",
    "effect",
    "mail",
]
"""The names that a :class:`CrashPoint` may have.

``record`` is any recording call; what it carries are ``step`` (a decision of the model), ``intent`` (calls that are
about to be made), ``ask`` (questions to people), ``start`` (a stored call is taken up: after an approval, or again),
``result``, and how the run leaves the worker: ``pause``, ``complete``, ``fail``, ``cancel``, ``release``. ``effect``
and ``mail`` happen inside tools: the sinks are told of them.
"""

JsonObject = dict[str, Any]

MOMENTS: Final[frozenset[str]] = frozenset(get_args(Moment))

RPCS: Final[Mapping[str, Moment]] = {
    "agent_worker_register": "register",
    "agent_worker_claim": "claim",
    "agent_worker_log": "log",
    "agent_worker_record": "record",
    "agent_worker_heartbeat": "heartbeat",
    "agent_worker_release": "release_runs",
    "agent_worker_stop": "stop",
    "agent_sweep": "sweep",
    "agent_worker_definitions": "definitions",
}

_PARTS: Final[Mapping[str, Moment]] = {
    "steps": "step",
    "calls": "intent",
    "reviews": "ask",
    "starts": "start",
    "results": "result",
}

_ENDS: Final[Mapping[str, Moment]] = {
    "awaiting_review": "pause",
    "completed": "complete",
    "failed": "fail",
    "cancelled": "cancel",
    "pending": "release",
}


_OPEN: Final = frozenset({"pending", "awaiting_review", "running"})


class Happening(NamedTuple):
    """A moment of one run, or of the worker alone."""

    moment: Moment
    run: str | None = None


def in_request(function: str, body: bytes) -> list[Happening]:
    """What a call of a database function is about; nothing if it is no call of a worker."""
    moment = RPCS.get(function)
    if moment is None:
        return []
    arguments = _object(body)
    match moment:
        case "record":
            entries: list[JsonObject] = arguments.get("entries") or []
            return [happening for entry in entries for happening in _in_entry(entry)]
        case "log":
            return [Happening(moment, arguments.get("execution_id"))]
        case _:
            runs: list[str] = arguments.get("executions") or arguments.get("held") or []
            return _of_runs(moment, runs)


def in_answer(function: str, body: bytes) -> list[Happening]:
    """What only the answer tells: the runs that a claim took."""
    if RPCS.get(function) != "claim":
        return []
    runs: list[JsonObject] = _object(body).get("runs") or []
    return _of_runs("claim", [run["id"] for run in runs])


def _of_runs(moment: Moment, runs: Sequence[str]) -> list[Happening]:
    return [Happening(moment, run) for run in runs] or [Happening(moment)]


def _in_entry(entry: JsonObject) -> Iterator[Happening]:
    run = entry["execution"]
    yield Happening("record", run)
    for part, moment in _PARTS.items():
        items: list[JsonObject] = entry.get(part) or []
        if part == "calls":  # one that could not even begin is recorded as failed
            items = [call for call in items if call.get("status") in _OPEN]
        if items:
            yield Happening(moment, run)
    transition: JsonObject = entry.get("transition") or {}
    if transition.get("to") in _ENDS:
        yield Happening(_ENDS[transition["to"]], run)


def _object(body: bytes) -> JsonObject:
    try:
        value: object = json.loads(body)
    except ValueError:
        return {}
    return cast("JsonObject", value) if isinstance(value, dict) else {}
