"""Where the time goes: functions of a worker process, and functions of the database."""

from __future__ import annotations

import pstats
import sys

from bench.place import Place

TOP = 40


def tell_profiles(place: Place, name: str, database: str) -> None:
    """Print what the last cell's worker 0 and the database spent."""
    file = place.folder / f"{name}.prof"
    if file.exists():
        pstats.Stats(str(file), stream=sys.stdout).sort_stats("tottime").print_stats(TOP)
        file.unlink()
    with place.connect(database) as connection:
        rows = connection.execute(
            "select schemaname || '.' || funcname, calls, total_time, self_time from pg_stat_user_functions "
            "order by self_time desc limit 25"
        ).fetchall()
        print(f"{'function':60} {'calls':>8} {'total ms':>10} {'self ms':>10}")
        for function, calls, total, own in rows:
            print(f"{function:60} {calls:8} {total:10.0f} {own:10.0f}")
        tables = connection.execute(
            "select relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, seq_scan, idx_scan from pg_stat_user_tables "
            "where n_tup_ins + n_tup_upd > 0 order by n_tup_ins + n_tup_upd desc limit 12"
        ).fetchall()
        print(f"{'table':40} {'inserts':>8} {'updates':>8} {'HOT':>8} {'seq':>8} {'index':>8}")
        for table, *numbers in tables:
            print(f"{table:40} " + " ".join(f"{number or 0:8}" for number in numbers))
        sizes = connection.execute(
            "select relname, pg_total_relation_size(relid) / 1024, pg_indexes_size(relid) / 1024, n_live_tup "
            "from pg_stat_user_tables where n_live_tup > 0 order by 2 desc limit 12"
        ).fetchall()
        print(f"{'table':40} {'KiB':>8} {'indexes':>8} {'rows':>8}")
        for table, *numbers in sizes:
            print(f"{table:40} " + " ".join(f"{number:8}" for number in numbers))
        connection.execute("select pg_stat_reset()")
