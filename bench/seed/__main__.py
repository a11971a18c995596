"""Fill a migrated database with a past and a queue.

    python -m bench.seed DATABASE_URL --executions 1000000 --pending 1000000

Deterministic: the same numbers, seed and end give the same rows. For databases of benchmarks and tests only: what is
there stays, triggers are off meanwhile, so no audit of the inserts, no wake-ups. Needs psycopg (the extra ``local``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg

from bench.seed.past import Past, seed


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, fill the database, say how long it took."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.seed", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument(
        "database_url", help="of the owner of the tables, better of a superuser (twice as fast)"
    )
    parser.add_argument(
        "--executions", type=int, default=1_000_000, help="ended runs, eight tool calls each on average"
    )
    parser.add_argument(
        "--pending", type=int, default=1_000_000, help="queued runs, a fifth of them for later"
    )
    parser.add_argument("--paused", type=int, default=2_000, help="runs that wait for a person")
    parser.add_argument("--running", type=int, default=200)
    parser.add_argument("--users", type=int, default=5_000, help="one of them has a hundredth of all runs")
    parser.add_argument("--days", type=float, default=30, help="over which the past is spread")
    parser.add_argument("--end", type=datetime.fromisoformat, help="of the past; now, if not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-roll-up", action="store_true", help="leave the hourly metrics to the sweep")
    given = parser.parse_args(arguments)
    past = Past(
        executions=given.executions,
        pending=given.pending,
        paused=given.paused,
        running=given.running,
        users=given.users,
        days=given.days,
        end=given.end or datetime.now(UTC),
        seed=given.seed,
        roll_up=not given.no_roll_up,
    )
    begin = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begin:6.1f} s  {line}\n")

    with psycopg.connect(given.database_url, autocommit=True) as connection:
        seed(connection, past, say)


if __name__ == "__main__":
    main()
