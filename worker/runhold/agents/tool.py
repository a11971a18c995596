"""``@tool``: a Python function that a model may call."""

from __future__ import annotations

import inspect
import math
import sys
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, overload

from pydantic import BaseModel, ValidationError

from runhold.agents.context import RunContext
from runhold.agents.naming import require_field_paths, require_tool_name
from runhold.agents.schema import (
    JsonSchema,
    arguments_model,
    explain,
    parameters_schema,
    require_serialisable,
)
from runhold.errors import AgentDefinitionError, RunholdError

Effect = Literal["read", "idempotent", "unsafe"]
"""What calling a tool does to the world.

``read``: nothing; it may run while its call is still being recorded, and again after a crash.
``idempotent``: something, but the same call twice does no more than once; after a crash it runs again with
the same ``ctx.idempotency_key``. ``unsafe``: anything else; it never runs twice without a person saying so.
"""

Approval = bool | Callable[[RunContext, Any], bool | Awaitable[bool]]
"""Whether a person must agree first: always, never, or as a function of (ctx, arguments) says."""

DEFAULT_TOOL_TIMEOUT_S: Final = 30.0

P = ParamSpec("P")
R = TypeVar("R")


class InvalidArguments(RunholdError):
    """The arguments of a call do not fit the tool. ``str(error)`` is written for the model that sent them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tool(Generic[P, R]):
    """A function with all that is needed to offer it to a model. Made by :func:`tool`, still callable.

    :ivar effect: see :data:`Effect`.
    :ivar approval: see :data:`Approval`.
    :ivar timeout_s: seconds that one call may take.
    :ivar arguments: validates a call's arguments; its attributes are what ``approval`` functions get.
    :ivar takes_context: whether the function's first parameter is the :class:`RunContext`.
    :ivar is_async: whether the function is a coroutine function; any other runs in a thread.
    :ivar asks_person: the call is a question to a person, who answers in place of ``function``.
    :ivar redact: fields of the arguments and of the output whose values are kept out of rows, logs and progress.
    """

    name: str
    description: str
    effect: Effect
    approval: Approval
    timeout_s: float
    function: Callable[P, R]
    arguments: type[BaseModel]
    takes_context: bool
    is_async: bool
    asks_person: bool = False
    redact: Sequence[str] = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def validate(self, arguments_json: str | bytes) -> BaseModel:
        """The arguments as Python values.

        :raises InvalidArguments: they do not fit; the message says which and why.
        """
        try:
            return self.arguments.model_validate_json(arguments_json)
        except ValidationError as error:
            raise InvalidArguments(f"Invalid arguments for {self.name}: {explain(error)}") from error

    def invoke(self, ctx: RunContext, arguments: BaseModel) -> Any:
        """Call the function: a coroutine if :attr:`is_async`, else the value itself."""
        function: Callable[..., Any] = self.function
        values = {name: getattr(arguments, name) for name in type(arguments).model_fields}
        return function(ctx, **values) if self.takes_context else function(**values)

    def definition(self) -> JsonSchema:
        """The tool as it is registered: name, description, JSON schema of the arguments, effect, approval."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": parameters_schema(self.arguments),
            "effect": self.effect,
            "approval": self.approval if isinstance(self.approval, bool) else "conditional",
        }


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    effect: Effect = "unsafe",
    approval: Approval = False,
    timeout: float = DEFAULT_TOOL_TIMEOUT_S,
    name: str | None = None,
    description: str | None = None,
    redact: Sequence[str] = (),
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = "unsafe",
    approval: Approval = False,
    timeout: float = DEFAULT_TOOL_TIMEOUT_S,
    name: str | None = None,
    description: str | None = None,
    redact: Sequence[str] = (),
) -> Any:
    """Make a function a tool. Its annotated parameters are the arguments that the model must give.

    A first parameter of type :class:`RunContext` (or one called ``ctx``) gets the context; the model does not
    see it. The function may be ``async`` or not; one that is not runs in a thread.

    :param effect: what a call does to the world, see :data:`Effect`. Say ``read`` or ``idempotent`` only
        where it is true.
    :param approval: True, or a function of ``(ctx, args)`` that says so, makes a call wait for a person. If
        that function raises, approval is needed.
    :param timeout: seconds that one call may take.
    :param name: what the model calls it; the function's name by default.
    :param description: what the model is told; the function's docstring by default.
    :param redact: fields of the arguments and of the output (``"card_number"``, ``"address.street"``) whose values are
        kept out of rows, logs and progress. The worker then needs ``RUNHOLD_REDACT_KEY``.
    :raises AgentDefinitionError: the function or an option can't work; the message says what to change.
    """
    # where the function is written: its annotations may name types that are local there
    scope = sys._getframe(1).f_locals  # pyright: ignore[reportPrivateUsage]

    def decorate(function: Callable[..., Any]) -> Tool[..., Any]:
        return _build(
            function,
            effect=effect,
            approval=approval,
            timeout=timeout,
            name=name,
            description=description,
            redact=redact,
            scope=scope,
        )

    return decorate if function is None else decorate(function)


def _build(
    function: Callable[..., Any],
    *,
    effect: Effect,
    approval: Approval,
    timeout: float,
    name: str | None,
    description: str | None,
    redact: Sequence[str],
    scope: Mapping[str, Any],
) -> Tool[..., Any]:
    if not callable(function) or isinstance(function, type):
        raise AgentDefinitionError(f"@tool works on functions, not on {function!r}.")
    tool_name = require_tool_name(name or getattr(function, "__name__", ""))
    _require_options(tool_name, effect, approval, timeout)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise AgentDefinitionError(
            f"Tool {tool_name!r} is a generator: return the whole result instead of yielding."
        )
    hints = _type_hints(tool_name, function, scope)
    parameters = dict(inspect.signature(function).parameters)
    takes_context = _take_context(tool_name, parameters, hints)
    for parameter in parameters.values():
        _require_argument(tool_name, parameter, hints)
    if "return" in hints:
        require_serialisable(hints["return"], f"The return value of tool {tool_name!r}")
    return Tool(
        name=tool_name,
        description=inspect.cleandoc(description if description is not None else function.__doc__ or ""),
        effect=effect,
        approval=approval,
        timeout_s=timeout,
        function=function,
        arguments=arguments_model(tool_name, parameters, hints),
        takes_context=takes_context,
        is_async=_is_async(function),
        redact=require_field_paths(redact, f"Tool {tool_name!r}"),
    )


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _require_options(name: str, effect: object, approval: object, timeout: object) -> None:
    if effect not in typing.get_args(Effect):
        raise AgentDefinitionError(
            f'Tool {name!r} has effect={effect!r}: say "read", "idempotent" or "unsafe".'
        )
    if not isinstance(approval, bool) and not callable(approval):
        raise AgentDefinitionError(
            f"Tool {name!r} has approval={approval!r}: give True, False or a function of (ctx, args)."
        )
    number = timeout if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) else 0
    if not 0 < number < math.inf:
        raise AgentDefinitionError(f"Tool {name!r} has timeout={timeout!r}: give seconds above 0.")


def _type_hints(name: str, function: Callable[..., Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else function.__call__
    try:
        return typing.get_type_hints(target, localns=dict(scope), include_extras=True)
    except (NameError, TypeError) as error:
        raise AgentDefinitionError(
            f"The annotations of tool {name!r} can't be resolved ({error}): "
            "import the types where the tool is defined."
        ) from error


def _take_context(name: str, parameters: dict[str, inspect.Parameter], hints: Mapping[str, Any]) -> bool:
    """Take the context's parameter out of ``parameters``; say whether there was one."""
    first = next(iter(parameters), None)
    takes = first is not None and (_is_context(hints.get(first)) or (first == "ctx" and first not in hints))
    if takes and first is not None:
        del parameters[first]
    misplaced = next((other for other in parameters if _is_context(hints.get(other))), None)
    if misplaced is not None:
        raise AgentDefinitionError(
            f"Tool {name!r} takes its RunContext as {misplaced!r}: make it the first parameter."
        )
    return takes


def _is_context(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, RunContext)


def _require_argument(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise AgentDefinitionError(
            f"Tool {name!r} takes *{parameter.name}: a model needs to know every argument, so name them all."
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise AgentDefinitionError(
            f"Parameter {parameter.name!r} of tool {name!r} is positional-only: arguments are passed by name."
        )
    if parameter.name.startswith("_"):
        raise AgentDefinitionError(
            f"Parameter {parameter.name!r} of tool {name!r} begins with an underscore: rename it."
        )
    if parameter.name not in hints:
        raise AgentDefinitionError(
            f"Parameter {parameter.name!r} of tool {name!r} has no type: "
            "annotate it, so that the model knows what to send."
        )
