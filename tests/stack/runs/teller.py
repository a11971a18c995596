"""An agent that handles card numbers and streets, which no row, log or message may show.

The scripted model takes the card from what a tool told it, as a real one would.
"""

from __future__ import annotations

import json
from typing import Any

from clerk import _hold, note  # pyright: ignore[reportPrivateUsage]
from pydantic import BaseModel

from runhold import Agent, RunContext, tool
from runhold.testing import call, say

CARD = "4111-1111-2222-0042"
STREET = "Planted Lane 77"


class Address(BaseModel):
    street: str
    city: str


@tool(effect="read")
def find_card(customer: str) -> list[dict[str, Any]]:
    """The cards of a customer."""
    return [{"customer": customer, "card_number": CARD, "notes": "x" * 20_000}]


@tool(approval=True, redact=("address.street",))
def charge(ctx: RunContext, card_number: str, address: Address, amount: int) -> dict[str, Any]:
    """Charge a card."""
    ctx.emit("charging", {"card_number": card_number, "said": f"to {address.street}"})
    note("charge", f"{card_number} {address.street} {amount}")
    return {"address": {"street": address.street, "city": address.city}, "amount": amount}


@tool(effect="idempotent", timeout=120)
def hold_book(ctx: RunContext, card_number: str) -> str:
    """Say that it began, and wait for a signal."""
    note("key", ctx.idempotency_key)
    note("book", card_number)
    return _hold("book")


@tool(effect="read")
def verify(card_number: str) -> str:
    """Quote the card in an exception."""
    raise ValueError(f"no bank knows {card_number!r}")


agent = Agent(
    type="teller",
    model="scripted",
    instructions="Charge the customer.",
    tools=[find_card, charge, hold_book, verify],
    redact=("card_number",),
)


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """One call after the other."""
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if not results:
        return call("find_card", {"customer": "Ada"})
    start = results[0].index('"card_number":"') + len('"card_number":"')
    card = results[0][start : results[0].index('"', start)]
    match len(results):
        case 1:
            address = {"street": STREET, "city": "Ulm"}
            return call("charge", {"card_number": card, "address": address, "amount": 5})
        case 2:
            assert STREET in json.loads(results[1].split("\n")[-1])["address"]["street"]
            return call("hold_book", {"card_number": card})
        case 3:
            return call("verify", {"card_number": card})
        case _:
            return say("Done.")
