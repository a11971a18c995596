"""The hard limits of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from runhold.errors import AgentDefinitionError

OnLimit = Literal["fail", "land"]

_MAX_OUTPUT_BYTES_CEILING: Final = 960 * 1024
"""A record must pass gateways that accept requests of 1 MiB: larger outputs belong into Storage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run may use up. A run ends the moment it would pass one of these.

    The loop checks them before it spends, the database again when it records. Both enforce the run's effective
    limits, which the database computes from these, the operator's and the run's own (docs/reference/states.md).

    :ivar max_steps: model decisions.
    :ivar max_tokens: input and output tokens of all steps together, as the provider bills them.
    :ivar step_timeout_s: seconds until the model must have answered, retries included.
    :ivar total_timeout_s: seconds of active time; waiting for people, a slot or a provider is not counted.
    :ivar max_cost_usd: US dollars, None for no limit. Where no price of the model is known nothing passes it.
    :ivar max_tool_calls: tool calls of all steps together.
    :ivar max_output_bytes: size of one tool call's output as JSON; larger output is refused.
    :ivar on_limit: ``fail`` ends the run with the limit's code. ``land`` makes one last call without tools
        once 90 % of a limit is used, and completes the run with what the model has so far, marked as partial.
    :ivar min_output_tokens: with fewer tokens left than this for an answer the model is not called any more.
    :ivar model_outage_max_s: seconds that a run waits for a provider that is down before it fails.
    :raises AgentDefinitionError: when built with a value out of range.
    """

    max_steps: int = 25
    max_tokens: int = 50_000
    step_timeout_s: float = 30
    total_timeout_s: float = 300
    max_cost_usd: float | None = None
    max_tool_calls: int = 100
    max_output_bytes: int = 960 * 1024
    on_limit: OnLimit = "fail"
    min_output_tokens: int = 64
    model_outage_max_s: float = 3600

    def __post_init__(self) -> None:
        self._require_whole("max_steps", least=1, most=10_000)
        self._require_whole("max_tokens", least=1)
        self._require_seconds("step_timeout_s")
        self._require_seconds("total_timeout_s")
        if self.max_cost_usd is not None:
            self._require_number("max_cost_usd", "US dollars above 0, or None for no limit", above=0)
        self._require_whole("max_tool_calls", least=0)
        self._require_whole("max_output_bytes", least=1024, most=_MAX_OUTPUT_BYTES_CEILING)
        if self.on_limit not in ("fail", "land"):
            raise _out_of_range("on_limit", self.on_limit, '"fail" or "land"')
        self._require_whole("min_output_tokens", least=1)
        self._require_number("model_outage_max_s", "seconds, 0 or more", least=0)
        if self.min_output_tokens > self.max_tokens:
            raise AgentDefinitionError(
                f"Limits.min_output_tokens ({self.min_output_tokens}) is above "
                f"max_tokens ({self.max_tokens}): "
                "the model could never be called. Raise max_tokens or lower min_output_tokens."
            )

    def tightened(self, effective: Mapping[str, Any]) -> Limits:
        """Return these limits with the run's effective values (``Run.limits``) in place of their own.

        The database has computed the smallest of each (``runhold.effective_limits``): nothing is compared here.
        Keys that are absent or null keep the definition's value; unknown ones (newer database) are left out.
        """
        tight = copy(self)
        for key, value in effective.items():
            if key in self.__slots__ and value is not None:
                # Not validated again: whoever leaves a run too little to work with gets the limit's error
                # code.
                object.__setattr__(tight, key, value)
        return tight

    def as_json(self) -> dict[str, Any]:
        """The limits as they are registered with the definition."""
        return asdict(self)

    def _require_whole(self, name: str, *, least: int, most: int | None = None) -> None:
        value: Any = getattr(self, name)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < least
            or (most is not None and value > most)
        ):
            span = (
                f"a whole number from {least} to {most}"
                if most is not None
                else f"a whole number, {least} or more"
            )
            raise _out_of_range(name, value, span)

    def _require_seconds(self, name: str) -> None:
        self._require_number(name, "seconds above 0", above=0)

    def _require_number(
        self, name: str, span: str, *, above: float = -math.inf, least: float = -math.inf
    ) -> None:
        value: Any = getattr(self, name)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not usable or value <= above or value < least:
            raise _out_of_range(name, value, span)


def _out_of_range(name: str, value: object, span: str) -> AgentDefinitionError:
    return AgentDefinitionError(f"Limits.{name} is {value!r}: give {span}.")
