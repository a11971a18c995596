"""The state machine, driven as a machine. See machine.py for the actors, model.py for what must come of it."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import RunsMachine
from world import World

EXAMPLES, STEPS = 40, 40
SOAK_EXAMPLES = int(os.environ.get("RUNHOLD_MACHINE_EXAMPLES", "2000"))

ALWAYS = settings(
    deadline=None,
    stateful_step_count=STEPS,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.timeout(600)  # on a busy machine; alone it takes about 30 s
def test_many_actors_in_any_order_leave_what_the_model_says(world: World) -> None:
    """The same examples every time."""
    profile = settings(ALWAYS, max_examples=EXAMPLES, derandomize=True)
    run_state_machine_as_test(lambda: RunsMachine(world), settings=profile)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_more_orders(world: World) -> None:
    """New examples every time; RUNHOLD_MACHINE_EXAMPLES says how many."""
    profile = settings(ALWAYS, max_examples=SOAK_EXAMPLES, stateful_step_count=80)
    run_state_machine_as_test(lambda: RunsMachine(world), settings=profile)
