"""JSON schemas from Python types, for arguments, inputs and structured output."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from inspect import Parameter
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.json_schema import JsonSchemaMode

from runhold.errors import AgentDefinitionError

JsonSchema = dict[str, Any]

_UNDESCRIBABLE: Final = (PydanticUserError, TypeError, NameError, ValueError)
"""What pydantic raises for types and field names that it can't describe."""

_ERROR_TEXT_MAX = 1_500
"""Characters of a validation message: enough for a dozen wrong fields; the model pays for each."""


def arguments_model(
    tool_name: str, parameters: Mapping[str, Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    """A model that validates exactly ``parameters`` and refuses anything else.

    :raises AgentDefinitionError: a parameter has a type or name that pydantic can't validate from JSON.
    """
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is Parameter.empty else parameter.default)
        for name, parameter in parameters.items()
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # arguments may be called `json` or `model_id`: nothing is shadowed for us
            model = create_model(
                f"{tool_name}_arguments",
                __config__=ConfigDict(extra="forbid", protected_namespaces=()),
                **fields,
            )
            model.model_json_schema()
    except _UNDESCRIBABLE as error:
        raise AgentDefinitionError(
            f"The arguments of tool {tool_name!r} can't be read from JSON: {first_line(error)} "
            "Use types that pydantic can validate."
        ) from error
    return model


def parameters_schema(model: type[BaseModel]) -> JsonSchema:
    """The JSON schema of a tool's arguments as the model gets it, without the titles pydantic makes up."""
    schema = _without_titles(model.model_json_schema())
    schema.setdefault("properties", {})  # some servers refuse an object schema without it
    return schema


def object_schema(adapter: TypeAdapter[Any], what: str, mode: JsonSchemaMode) -> JsonSchema:
    """The JSON schema of a type whose values are JSON objects.

    :raises AgentDefinitionError: the type has no JSON schema or its values are no objects.
    """
    try:
        schema = _without_titles(adapter.json_schema(mode=mode))
    except _UNDESCRIBABLE as error:
        raise AgentDefinitionError(f"{what} has no JSON schema: {first_line(error)}") from error
    top = _resolved(schema, schema)
    if top.get("type") != "object":
        raise AgentDefinitionError(
            f"{what} must describe a JSON object: use a pydantic model, a dataclass or a TypedDict."
        )
    return schema


def require_serialisable(annotation: Any, what: str) -> None:
    """:raises AgentDefinitionError: values of this type have no JSON form."""
    try:
        TypeAdapter(annotation).json_schema(mode="serialization")
    except _UNDESCRIBABLE as error:
        raise AgentDefinitionError(
            f"{what} can't be turned into JSON: {first_line(error)} "
            "Return a pydantic model, a dict, a list or a str."
        ) from error


def explain(error: ValidationError) -> str:
    """A validation error in one line per field, for whoever has to send better JSON. Repeats no values."""
    lines: list[str] = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        lines.append(f"{where}: {item['msg']}" if where else item["msg"])
    text = "; ".join(lines)
    return text if len(text) <= _ERROR_TEXT_MAX else text[:_ERROR_TEXT_MAX] + " …"


def strict_schema(schema: JsonSchema) -> JsonSchema | None:
    """``schema`` as OpenAI's strict structured output wants it, or None if it can't be said strictly.

    Strict means: every object is closed and requires all its properties. Free-form objects can't be said so.
    """
    strict = copy.deepcopy(schema)
    return strict if _make_strict(strict, strict, depth=0) else None


def first_line(error: Exception) -> str:
    """The first sentence of an error that goes on for pages."""
    line = str(error).strip().splitlines()[0]
    return line if line.endswith((".", "!")) else line + "."


# ------------------------------------------------------------------------------------------------ details

_NOT_STRICT: Final = frozenset(
    {"allOf", "not", "if", "then", "else", "patternProperties", "prefixItems", "propertyNames"}
)
_DROPPED: Final = (
    "default",
    "discriminator",
    "examples",
    "minLength",
    "maxLength",
    "uniqueItems",
    "contentMediaType",
)
"""Keywords that strict mode refuses and that validation enforces afterwards anyway."""

_MAX_DEPTH = 32


def _make_strict(node: JsonSchema, root: JsonSchema, *, depth: int) -> bool:
    if depth > _MAX_DEPTH or not _NOT_STRICT.isdisjoint(node):
        return False
    if (
        "$ref" in node and len(node) > 1
    ):  # strict mode allows no keyword beside $ref: put its target in its place
        target = _resolved({"$ref": node.pop("$ref")}, root)
        for key, value in target.items():
            node.setdefault(key, copy.deepcopy(value))
    for keyword in _DROPPED:
        node.pop(keyword, None)
    if "oneOf" in node:
        node["anyOf"] = node.pop("oneOf")
    if node.get("type") == "object":
        if "properties" not in node or node.get("additionalProperties", False) is not False:
            return False
        node["additionalProperties"] = False
        node["required"] = list(node["properties"])
    elif not node.keys() & {"type", "$ref", "anyOf", "enum", "const"}:
        return False  # "anything" can't be said strictly
    return all(_make_strict(child, root, depth=depth + 1) for child in _children(node))


def _children(node: JsonSchema) -> list[JsonSchema]:
    children: list[Any] = [*node.get("anyOf", ())]
    for container in ("properties", "$defs"):
        children.extend(node.get(container, {}).values())
    if "items" in node:
        children.append(node["items"])
    return [cast("JsonSchema", child) for child in children if isinstance(child, dict)]


def _resolved(node: JsonSchema, root: JsonSchema) -> JsonSchema:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return node


def _without_titles(schema: JsonSchema) -> JsonSchema:
    """Drop the ``title`` of every schema; a *property* named title stays."""
    cleaned: JsonSchema = {}
    for key, value in schema.items():
        if key == "title":
            continue
        if key in ("properties", "$defs") and isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            cleaned[key] = {name: _without_titles(child) for name, child in named.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            cleaned[key] = [_without_titles(child) for child in cast("list[JsonSchema]", value)]
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            cleaned[key] = _without_titles(cast("JsonSchema", value))
        else:
            cleaned[key] = value
    return cleaned
