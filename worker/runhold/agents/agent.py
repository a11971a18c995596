"""``Agent``: what is registered, offered to the model and run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from runhold.agents.limits import Limits
from runhold.agents.naming import require_field_paths, require_type_name
from runhold.agents.schema import JsonSchema, explain, first_line, object_schema, strict_schema
from runhold.agents.tool import Tool
from runhold.errors import AgentDefinitionError, RunholdError

_OWNED_PARAMS: Final = frozenset(
    {"model", "messages", "tools", "functions", "stream", "stream_options", "n", "response_format"}
)
"""Members of a request that the loop decides about."""

_ANY_OBJECT: Final[JsonSchema] = {"type": "object"}


class InvalidData(RunholdError):
    """Input or output does not fit the agent's type. ``str(error)`` says which field and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Agent:
    """One type of agent: its model, its words, its tools and its limits.

    :ivar type: the name by which runs ask for it (``agent_executions.agent_type``).
    :ivar version: yours; shown beside every step that this definition decided.
    :ivar model: the model's name, as its API wants it.
    :ivar instructions: the system message.
    :ivar input_type: what ``input_data`` must be: a pydantic model, dataclass or TypedDict; None: any object.
    :ivar output_type: what the model must answer with, likewise; None: text, which ends as ``{"text": …}``.
    :ivar tools: what the model may call.
    :ivar params: further members of every request: ``temperature``, ``reasoning_effort``, …
        ``max_completion_tokens`` bounds each answer (``max_tokens`` for servers that know only that name).
    :ivar max_attempts: claims of a run that may end with a lost worker before it fails.
    :ivar review_ttl: how long a question to a person stays open; None for as long as the type's row says.
    :ivar description: one sentence for people who choose among agents.
    :ivar redact: fields, wherever they stand in the arguments and outputs of its tools, whose values are kept out of
        rows, logs and progress: ``"iban"``, or the end of a path: ``"card.number"``. See ``redact`` of ``@tool``, too.
    :raises AgentDefinitionError: when built in a way that can't work; the message says what to change.
    """

    type: str
    model: str
    instructions: str
    version: str = "1"
    input_type: Any = None
    output_type: Any = None
    tools: Sequence[Tool[..., Any]] = ()
    limits: Limits = field(default_factory=Limits)
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_attempts: int = 3
    review_ttl: timedelta | None = None
    description: str = ""
    redact: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_type_name(self.type)
        for name in ("version", "model", "instructions"):
            text: Any = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise AgentDefinitionError(
                    f"Agent {self.type!r} has {name}={text!r}: give a text that is not empty."
                )
        require_field_paths(self.redact, f"Agent {self.type!r}")
        self._require_tools()
        self._require_params()
        if isinstance(self.max_attempts, bool) or not 1 <= self.max_attempts <= 100:
            raise AgentDefinitionError(
                f"Agent {self.type!r} has max_attempts={self.max_attempts!r}: "
                "give a whole number from 1 to 100."
            )
        if self.review_ttl is not None and self.review_ttl < timedelta(seconds=1):
            raise AgentDefinitionError(
                f"Agent {self.type!r} has review_ttl={self.review_ttl!r}: "
                "give a timedelta of a second or more."
            )
        self.definition()  # types that can't be described are refused here, not when the worker starts

    def tool(self, name: str) -> Tool[..., Any] | None:
        """The tool that the model knows by ``name``."""
        return self._tools_by_name.get(name)

    def check_input(self, value: Any) -> None:
        """:raises InvalidData: ``value`` is no input for this agent."""
        if self._input is None:
            return
        try:
            self._input.validate_json(json.dumps(value))
        except ValidationError as error:
            raise InvalidData(explain(error)) from error

    def parse_output(self, text: str) -> Any:
        """The run's result, as JSON values, from the model's final answer.

        :raises InvalidData: the answer is not what ``output_type`` says.
        """
        if self._output is None:
            return {"text": text}
        try:
            value = self._output.validate_json(_without_fence(text))
        except ValidationError as error:
            raise InvalidData(explain(error)) from error
        return self._output.dump_python(value, mode="json")

    def definition(self) -> JsonSchema:
        """The agent as ``agent_worker_register`` takes it (docs/reference/worker-protocol.md)."""
        return {
            "agent_type": self.type,
            "description": self.description,
            "version": self.version,
            "model": self.model,
            "instructions": self.instructions,
            "input_schema": self._input_schema,
            "tools": [tool.definition() for tool in self.tools],
            "params": self._request_params,
            "limits": self.limits.as_json(),
            "max_attempts": self.max_attempts,
            "review_ttl_s": None if self.review_ttl is None else int(self.review_ttl.total_seconds()),
        }

    # -------------------------------------------------------------------------------------------- details

    @cached_property
    def _tools_by_name(self) -> dict[str, Tool[..., Any]]:
        return {tool.name: tool for tool in self.tools}

    @cached_property
    def _input(self) -> TypeAdapter[Any] | None:
        return (
            None
            if self.input_type is None
            else _adapter(self.input_type, f"input_type of agent {self.type!r}")
        )

    @cached_property
    def _output(self) -> TypeAdapter[Any] | None:
        plain = self.output_type is None or self.output_type is str
        return None if plain else _adapter(self.output_type, f"output_type of agent {self.type!r}")

    @cached_property
    def _input_schema(self) -> JsonSchema:
        if self._input is None:
            return _ANY_OBJECT
        return object_schema(self._input, f"input_type of agent {self.type!r}", "validation")

    @cached_property
    def _request_params(self) -> JsonSchema:
        """``params`` with the ``response_format`` that makes the model answer as ``output_type`` says."""
        if self._output is None:
            return dict(self.params)
        schema = object_schema(self._output, f"output_type of agent {self.type!r}", "validation")
        strict = strict_schema(schema)
        described = {
            "name": "result",
            "strict": strict is not None,
            "schema": schema if strict is None else strict,
        }
        return {**self.params, "response_format": {"type": "json_schema", "json_schema": described}}

    def _require_tools(self) -> None:
        seen: set[str] = set()
        for item in self.tools:
            if not isinstance(cast("object", item), Tool):
                raise AgentDefinitionError(
                    f"Agent {self.type!r} lists {item!r} as a tool: decorate it with @tool."
                )
            if item.name in seen:
                raise AgentDefinitionError(
                    f'Agent {self.type!r} has two tools named {item.name!r}: rename one with @tool(name="…").'
                )
            seen.add(item.name)

    def _require_params(self) -> None:
        owned = sorted(_OWNED_PARAMS & set(self.params))
        if owned:
            raise AgentDefinitionError(
                f"Agent {self.type!r} sets params[{owned[0]!r}], which Runhold decides about: "
                "take it out of params."
            )
        try:
            json.dumps(dict(self.params), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AgentDefinitionError(
                f"The params of agent {self.type!r} are no JSON ({error}): they are sent with every request."
            ) from error
        for name in ("max_completion_tokens", "max_tokens"):
            bound = self.params.get(name, 1)
            if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
                raise AgentDefinitionError(
                    f"Agent {self.type!r} has params[{name!r}]={bound!r}: give a whole number, 1 or more."
                )


def _adapter(annotation: Any, what: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except Exception as error:  # pydantic raises what the type's own code raises, too
        raise AgentDefinitionError(
            f"{what} is nothing that pydantic can validate: {first_line(error)}"
        ) from error


def _without_fence(text: str) -> str:
    """The text inside a Markdown code fence, which models without strict output put around JSON."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text
