"""Collections spare what a worker has imported."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import gc, json
from runhold.runtime.garbage import pause_less
import runhold.runtime.worker
before = len(gc.get_objects())
pause_less()
print(json.dumps([before, len(gc.get_objects()), gc.get_freeze_count(), gc.get_threshold()[0]]))
class Knot: pass
knot = Knot()
knot.itself = knot
del knot
print(json.dumps(gc.collect()))
"""


def test_what_is_imported_is_not_looked_through_again_and_new_knots_are_still_found() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, collected = ran.stdout.splitlines()
    before, after, frozen, threshold = json.loads(first)
    assert before > 20_000
    assert after < before / 10
    assert frozen > 20_000
    assert threshold > 700
    assert int(collected) >= 1
