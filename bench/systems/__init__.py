"""What the benchmark compares, behind one small Protocol, and how it is told what to do."""

from __future__ import annotations

from bench.systems.protocol import Order, Recovery, System

__all__ = ["NAMES", "Order", "Recovery", "System", "load"]

NAMES = ("runhold", "dbos", "langgraph", "absurd", "floor", "floor-step")
"""In the order of the report: ours, the peers, the floors."""

PEERS = ("dbos", "langgraph", "absurd")


def load(name: str) -> System:
    """The system of that name. Its libraries are imported when it works, so any environment may ask what it is."""
    if name == "runhold":
        from bench.systems.runhold import Runhold

        return Runhold()
    if name == "dbos":
        from bench.systems.dbos import Dbos

        return Dbos()
    if name == "langgraph":
        from bench.systems.langgraph import LangGraph

        return LangGraph()
    if name == "absurd":
        from bench.systems.absurd import Absurd

        return Absurd()
    if name in ("floor", "floor-step"):
        from bench.systems.floor import Floor

        return Floor(per_step=name == "floor-step")
    raise KeyError(name)
