"""The chaos kit: real worker processes, killed at the worst moments, and a verdict on what became of the runs.

``docs/guides/testing-agents.md`` shows how. It needs ``runhold[local]``.
"""

from runhold.testing.chaos.effects import Effect, Effects, record_effect
from runhold.testing.chaos.fleet import Fleet
from runhold.testing.chaos.mail import ChaosMailbox
from runhold.testing.chaos.moments import Moment
from runhold.testing.chaos.patience import PATIENCE_S, eventually
from runhold.testing.chaos.points import Action, Armed, CrashPoint, Fired, Points, Side
from runhold.testing.chaos.proxy import Proxy
from runhold.testing.chaos.reviewer import Reviewer, approve
from runhold.testing.chaos.verdict import Verdict, assert_nothing_lost, judge
from runhold.testing.chaos.workers import ForkServer, WorkerProcess

__all__ = [
    "PATIENCE_S",
    "Action",
    "Armed",
    "ChaosMailbox",
    "CrashPoint",
    "Effect",
    "Effects",
    "Fired",
    "Fleet",
    "ForkServer",
    "Moment",
    "Points",
    "Proxy",
    "Reviewer",
    "Side",
    "Verdict",
    "WorkerProcess",
    "approve",
    "assert_nothing_lost",
    "eventually",
    "judge",
    "record_effect",
]
