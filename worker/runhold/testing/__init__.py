"""What you need to test your agents without a model: scripts that say what the model says.

``docs/guides/testing-agents.md`` shows how. Only a started :class:`ScriptedModel` needs ``runhold[local]``.
"""

from runhold.loop.ports import Usage
from runhold.models import fault
from runhold.models.inprocess import FunctionModel
from runhold.models.script import Script, call, calls, in_order, say
from runhold.models.scripted import ScriptedModel

__all__ = [
    "FunctionModel",
    "Script",
    "ScriptedModel",
    "Usage",
    "call",
    "calls",
    "fault",
    "in_order",
    "say",
]
