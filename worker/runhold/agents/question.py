"""``ask_person``: the built-in tool by which a model asks a person something."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from pydantic import Field

from runhold.agents.tool import Tool, tool


@tool(effect="read", name="ask_person")
def _ask_person(question: Annotated[str, Field(min_length=1, max_length=4_000)]) -> str:
    """Ask the person responsible a question that only a person can answer, and wait for the answer.

    Ask only what the task can't go on without. Say in the question all that is needed to answer it.
    """
    raise NotImplementedError("a person answers in place of this function")


ask_person: Final[Tool[[str], str]] = replace(_ask_person, asks_person=True)
"""List it in ``Agent(tools=[…, ask_person])``. The run waits, holding nothing, until a person answered."""
