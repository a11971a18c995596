"""Every exception that Runhold raises, and what each SQLSTATE of ours means.

RunholdError
├── ConfigError            the process can't start as configured (URL, key, migrations, agents)
│   ├── AgentDefinitionError   an agent or tool is declared in a way that can't work
│   └── UserAccessFault        the worker can't act as users: its run is tried again later
├── ToolFailed             raised by tools: "I vouch that nothing happened"
├── ModelError             the model gave no usable answer
│   ├── ModelUnavailable       outage or rate limit: worth waiting for
│   ├── ModelTimeout           no answer within the step's time
│   └── ModelRejected          the request will never be accepted as it is (401, 400, …)
└── StoreError             the database refused or could not be reached
    ├── StoreUnavailable       no answer of the database: outcome unknown, the same call may be repeated
    ├── ContentRejected        what is between worker and database lets one entry of a run not pass
    ├── RecordTooLarge         an entry is larger than what gateways let pass
    └── Refused                an answer of PostgREST or PostgreSQL with a code; RH… are ours, see REFUSALS
        ├── WorkerDead             this worker's lease was given away: register anew
        └── KeyRejected            the key or the token was rejected
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

APPLY_MIGRATIONS: Final = "`supabase db push --linked` (hosted) or `runhold dev` (local)"
"""The commands that bring a database's migrations up to date. Without ``--linked``, version 3 of the Supabase CLI
pushes to the local database; versions 2 and 3 both have the flag."""


class RunholdError(Exception):
    """Base of all errors that Runhold raises. ``str(error)`` is one sentence that says what to do."""


class ConfigError(RunholdError):
    """The process can't start as configured: wrong URL or key, missing migrations, broken agents."""


class AgentDefinitionError(ConfigError):
    """An agent or tool is declared in a way that can't work."""


class UserAccessFault(ConfigError):
    """``ctx.supabase`` can't act as the run's user, through no fault of the run: a key was rotated, or is missing.

    A tool need not handle it: the run goes back to the queue, whatever the tool makes of it.
    """


class ToolFailed(RunholdError):
    """Raise this in a tool to say: it did not work, **and nothing happened**.

    The message goes to the model, which may try something else. For an ``unsafe`` tool this is the only
    exception that lets the run go on by itself: any other one leaves open whether the effect happened, so
    the call becomes ``unknown`` and a person is asked.
    """


class ModelError(RunholdError):
    """The model gave no usable answer."""


class ModelUnavailable(ModelError):
    """The provider is down or limits our rate, also after retries within the step.

    :ivar retry_after_s: seconds that the provider asked us to wait, if it did.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelTimeout(ModelError):
    """The model did not answer within the step's time-out."""


class ModelRejected(ModelError):
    """The provider refuses this request for good (bad key, unknown model, malformed request).

    :ivar status: the HTTP status, if there was one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StoreError(RunholdError):
    """The database refused a call or could not be reached."""


class StoreUnavailable(StoreError):
    """No answer of the database came, so it may have carried out the call: repeat the same call."""


class Refused(StoreError):
    """PostgREST or PostgreSQL refused a call; with a code of :data:`REFUSALS`, for a reason of ours.

    :ivar code: the SQLSTATE (a key of :data:`REFUSALS` or any other) or the PGRST code.
    :ivar hint: what to do about it, if the database said so.
    """

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class KeyRejected(Refused):
    """The worker's key or token was rejected. That may be for a moment only."""


class ContentRejected(StoreError):
    """A gateway rejects what one entry of a run holds, while it lets other entries pass.

    :ivar facts: for ``error_detail``: ``status`` (HTTP, or None if no answer came), ``answer`` (how the answer begins,
        as plain words) and ``bytes`` (size of the entry). Nothing of the entry itself.
    """

    def __init__(self, message: str, *, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class RecordTooLarge(StoreError):
    """An entry of a run is larger than what a gateway in front of the database is sure to let pass.

    :ivar facts: for ``error_detail``: ``part``, ``bytes`` and ``allowed``.
    """

    def __init__(self, message: str, *, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


class WorkerDead(Refused):
    """This worker's lease ran out and its runs were given to others: it must register anew."""


REFUSALS: Final[dict[str, str]] = {
    "RH001": "unknown agent type",
    "RH002": "agent type disabled",
    "RH003": "invalid input: not an object, too large or malformed",
    "RH004": "limits wider than the operator allows (`agent_types.limits`)",
    "RH005": "illegal state change",
    "RH006": "no such run, or not yours",
    "RH007": "review already decided",
    "RH008": "review expired",
    "RH009": "nobody may decide about their own run here",
    "RH010": "a decision needs a signed-in person",
    "RH011": "invalid decision",
    "RH012": "worker is dead, unknown or its lease expired: register anew",
    "RH013": "invalid call by a worker",
    "RH014": "the run has already ended, or is being cancelled",
    "RH015": "no such review, or not yours to see",
    "RH016": "the message is empty or too long",
    "RH017": "too many messages wait for the run",
    "RH018": "only a failed run can be retried",
    "RH019": "the run would fail again at once: a limit is used up",
    "RH020": "the run can not be forked from that step",
    "RH021": "only an operator of the agent type may do this",
    "RH022": "the user was deleted, is banned or left the tenant",
}
"""SQLSTATE → meaning. ``docs/reference/errors.md`` has the same table; a test keeps them equal."""
