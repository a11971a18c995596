"""Runhold runs production AI agents on Supabase: durable runs, hard limits, human approval.

from runhold import Agent, Limits, RunContext, tool

@tool(effect="read")
async def find_customer(ctx: RunContext, email: str) -> dict[str, str]:
    \"""Look a customer up by e-mail address.\"""
    ...

agent = Agent(type="helpdesk", model="gpt-5-mini", instructions="…", tools=[find_customer])
"""

from runhold.agents import Agent, Limits, RunContext, ask_person, tool
from runhold.errors import AgentDefinitionError, ToolFailed

__all__ = ["Agent", "AgentDefinitionError", "Limits", "RunContext", "ToolFailed", "ask_person", "tool"]
