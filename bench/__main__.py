"""``python -m bench``: every cell, every system, interleaved; then a table, a JSON file and a plot."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from bench.cells import CELLS, QUICK
from bench.machine import facts
from bench.measure import NotMeasured, Setting, measure, prepare
from bench.place import Place, end_on_signals, folder
from bench.processes import HostFailed
from bench.profiles import tell_profiles
from bench.report import Outcome, Results, line, read, save, write
from bench.systems import NAMES, load

SECONDS: Final = 5.0
QUICK_SECONDS: Final = 1.5
REPEATS: Final = 3
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""
QUICK_REPEATS: Final = 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cells, once: under 3 minutes")
    parser.add_argument("--system", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument(
        "--cell",
        action="append",
        choices=[cell.name for cell in CELLS],
        help="only this one; may be repeated",
    )
    parser.add_argument("--repeat", type=int, help=f"how often; {REPEATS}, or {QUICK_REPEATS} with --quick")
    parser.add_argument("--seconds", type=float, help=f"about how long a throughput cell lasts; {SECONDS:g}")
    parser.add_argument(
        "--processes", type=int, help="worker processes; without, what serves each system best"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the results; bench/results (/quick), or none with selectors"
    )
    parser.add_argument(
        "--profile", action="store_true", help="time in functions, of worker 0 and of PostgreSQL"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="only write page and plot of these results anew"
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of PostgreSQL, to try what it does",
    )
    return parser.parse_args(arguments)


async def run(arguments: argparse.Namespace, output: Path | None) -> Results:
    """Measure all that is asked for; tell each line as it comes, and keep it in ``output``."""
    names: list[str] = arguments.system or [*NAMES]
    wanted = arguments.cell or (QUICK if arguments.quick else [cell.name for cell in CELLS])
    cells = [cell for cell in CELLS if cell.name in wanted]
    repeats = arguments.repeat or (QUICK_REPEATS if arguments.quick else REPEATS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    results = Results(machine=facts(), systems=names, cells=[cell.name for cell in cells])
    systems = {name: load(name) for name in names}
    with folder() as path:
        more = dict(setting.partition("=")[::2] for setting in arguments.setting)
        async with Place(Path(path), profile=arguments.profile, settings=more) as place:
            for name, system in systems.items():
                await prepare(place, name, system, place.folder)
            for repeat in range(repeats):
                for number, cell in enumerate(cells):
                    if cell.once and repeat:
                        continue
                    turn = (repeat + number) % len(names)  # nobody is always first
                    for name in [*names[turn:], *names[:turn]]:
                        setting = Setting(
                            place=place,
                            name=name,
                            system=systems[name],
                            cell=cell,
                            folder=place.folder,
                            seconds=seconds,
                            processes=arguments.processes,
                            quick=arguments.quick,
                        )
                        outcome = Outcome(system=name, cell=cell.name, repeat=repeat)
                        began = time.monotonic()
                        try:
                            outcome.values = await measure(setting)
                        except NotMeasured as reason:
                            outcome.note = str(reason)
                        except HostFailed as failure:
                            outcome.note = "failed"
                            print(failure, file=sys.stderr, flush=True)
                        outcome.took_s = round(time.monotonic() - began, 1)
                        results.outcomes.append(outcome)
                        print(line(outcome), flush=True)
                        if output is not None:
                            save(results, output)
                        if arguments.profile:
                            tell_profiles(place, name, systems[name].database())
    return results


async def main(arguments: argparse.Namespace) -> None:
    """Measure and write."""
    task = asyncio.current_task()
    assert task is not None
    end_on_signals(task)
    selected = arguments.system or arguments.cell or arguments.profile or arguments.setting
    kept = Path(__file__).parent / "results"
    output = arguments.output or (None if selected else kept / "quick" if arguments.quick else kept)
    began = time.monotonic()
    results = await run(arguments, output)
    results.took_s = round(time.monotonic() - began)
    write(results, output)


if __name__ == "__main__":
    asked = parse(sys.argv[1:])
    if asked.render is not None:
        write(read(asked.render), asked.output or asked.render.parent)
    else:
        try:
            asyncio.run(main(asked))
        except asyncio.CancelledError:
            sys.exit(INTERRUPTED)
