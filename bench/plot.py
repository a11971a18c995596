# pyright: reportMissingImports=false
# (matplotlib is in bench/.venv)
"""The plot: runs per second against runs in flight. ``python -m bench.plot latest.json latest.svg``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

IN_FLIGHT = (1, 16, 64, 256)
PANELS = (("", "instant model"), ("-20ms", "model of 20 ms"))


def draw(results: dict[str, Any], file: Path) -> None:
    """Two panels, a line per system."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure: Any
    panels: Any
    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 4.5), sharey=True)
    for panel, (suffix, title) in zip(panels, PANELS, strict=True):
        for system in results["systems"]:
            points = [(count, _median(results, system, f"runs{count}{suffix}")) for count in IN_FLIGHT]
            known = [(count, value) for count, value in points if value is not None]
            if known:
                style = "--" if system.startswith("floor") else "-"
                panel.plot(*zip(*known, strict=True), style, marker="o", label=system)
        panel.set(title=title, xlabel="runs in flight", xscale="log", yscale="log", xticks=IN_FLIGHT)
        panel.set_xticklabels([str(count) for count in IN_FLIGHT])
        panel.grid(visible=True, which="both", alpha=0.2)
    panels[0].set_ylabel("runs per second")
    panels[0].legend(fontsize="small")
    figure.suptitle("8 model steps, 7 tool calls a run; one PostgreSQL, fsync on")
    figure.tight_layout()
    figure.savefig(file, format="svg")


def _median(results: dict[str, Any], system: str, cell: str) -> float | None:
    found = [
        each["values"]["runs_per_s"]
        for each in results["outcomes"]
        if (each["system"], each["cell"]) == (system, cell) and "runs_per_s" in each["values"]
    ]
    return statistics.median(found) if found else None


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
