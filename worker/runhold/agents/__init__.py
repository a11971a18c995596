"""What users write with: ``Agent``, ``tool``, ``Limits``, ``RunContext``, ``ask_person``."""

from runhold.agents.agent import Agent, InvalidData
from runhold.agents.context import RunContext
from runhold.agents.limits import Limits
from runhold.agents.question import ask_person
from runhold.agents.tool import Approval, Effect, InvalidArguments, Tool, tool

__all__ = [
    "Agent",
    "Approval",
    "Effect",
    "InvalidArguments",
    "InvalidData",
    "Limits",
    "RunContext",
    "Tool",
    "ask_person",
    "tool",
]
