"""What a provider's refusal means: worth another attempt, or never accepted as it is.

Providers that speak OpenAI's dialect word their errors in many ways; this module alone knows them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast

from runhold.errors import ModelRejected

MAX_QUOTE_CHARS: Final = 300
"""So much of a provider's own message is quoted; some echo whole requests."""

_PASSING_STATUSES: Final = frozenset({408, 409, 425, 429})
"""Besides 5xx: time-out, conflict, too early, rate limit."""

_SPENT_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Sent as 429, but no waiting helps: somebody must pay."""

_WRONG_TYPES: Final = frozenset(
    {"invalid_request_error", "authentication_error", "permission_error", "not_found_error"}
)
"""Error types that end the matter when no HTTP status says so (an error inside a stream or a 200)."""


class Transient(Exception):
    """The attempt failed in a way that another one may cure. ``str()`` says how, without a full stop.

    :ivar retry_after_s: seconds that the provider asked us to wait, if it did.
    :ivar spent: the provider did the work (and bills it), but its answer is of no use.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, spent: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.spent = spent


@dataclass(frozen=True, kw_only=True, slots=True)
class Complaint:
    """What the provider said: each is empty if it did not."""

    message: str = ""
    code: str = ""
    type: str = ""


def complaint_of(payload: object, *, secret: str = "") -> Complaint:
    """Read an error payload: OpenAI's ``{"error": {…}}`` and the forms that other servers use.

    ``secret`` (the API key) never gets into the complaint, even if the provider echoes it.
    """
    if isinstance(payload, str):
        return Complaint(message=_quote(payload, secret))
    if not isinstance(payload, dict):
        return Complaint()
    fields = cast("dict[str, Any]", payload)
    error: object = fields.get("error")
    if isinstance(error, dict):
        fields = cast("dict[str, Any]", error)
    elif isinstance(error, str):
        return Complaint(message=_quote(error, secret))
    message = fields.get("message") or fields.get("detail") or ""
    return Complaint(
        message=_quote(message if isinstance(message, str) else json.dumps(message), secret),
        code=str(fields.get("code") or ""),
        type=str(fields.get("type") or ""),
    )


def complaint_in(text: str, *, secret: str = "") -> Complaint:
    """Read the body of an HTTP error: JSON, or plain text; an HTML page of some proxy says nothing."""
    try:
        return complaint_of(json.loads(text), secret=secret)
    except ValueError:
        return Complaint() if text.lstrip().startswith("<") else complaint_of(text, secret=secret)


def failure_of(
    status: int | None, complaint: Complaint, *, retry_after_s: float | None = None
) -> Transient | ModelRejected:
    """Decide what a failed call means.

    :param status: the HTTP status; None for an error that came inside a successful answer.
    """
    if status is None and complaint.code.isdecimal():
        status = int(complaint.code)
    if _SPENT_CODES & {complaint.code, complaint.type}:
        return ModelRejected(
            f"The model provider says that quota or credit is used up ({_name(status, complaint)}): "
            "add credit or raise the budget at the provider.",
            status=status,
        )
    if _may_pass(status, complaint):
        what = f"The model provider failed ({_name(status, complaint)})"
        return Transient(
            f"{what}: {complaint.message}" if complaint.message else what, retry_after_s=retry_after_s
        )
    return ModelRejected(_rejection(status, complaint), status=status)


def _may_pass(status: int | None, complaint: Complaint) -> bool:
    if status is None:
        return complaint.type not in _WRONG_TYPES
    return status in _PASSING_STATUSES or status >= 500


def _rejection(status: int | None, complaint: Complaint) -> str:
    if status == 401:
        # The provider's own words are left out: they quote parts of the key.
        return "The model provider does not accept the API key (401): check OPENAI_API_KEY."
    if status == 404:
        return _sentence(
            "The model provider knows no such model or address (404): check the model and OPENAI_BASE_URL",
            complaint,
        )
    if status is not None and 300 <= status < 400:
        return f"The model provider redirects elsewhere ({status}): set OPENAI_BASE_URL to the final address."
    return _sentence(f"The model provider refuses the request ({_name(status, complaint)})", complaint)


def _name(status: int | None, complaint: Complaint) -> str:
    """``429 rate_limit_exceeded``: the status and the most telling word beside it."""
    word = complaint.code or complaint.type
    return (
        " ".join(part for part in ("" if status is None else str(status), word) if part) or "no reason given"
    )


def _sentence(start: str, complaint: Complaint) -> str:
    return f"{start}: {complaint.message}" if complaint.message else f"{start}."


def _quote(text: str, secret: str) -> str:
    if secret:
        text = text.replace(secret, "[key]")
    text = " ".join(text.split())
    return text if len(text) <= MAX_QUOTE_CHARS else text[: MAX_QUOTE_CHARS - 1] + "…"
