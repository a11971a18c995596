"""What a claim reads: a bounded number of rows in the order of an index, however long the queue is, and whatever
PostgreSQL believes about it.

The same queues with a million runs each, measured, with their plans (`make bench-scale`): docs/plans/claim-*.txt.
"""

from __future__ import annotations

import pytest
from bench.seed.queues import QUEUES, Queues, fill
from world import DEFINITION, World

N = 8

# Those that no claim may read through are far longer than what it may read.
LENGTHS = Queues(runs=6000, users=3000, behind=500, capped_users=50, single_users=2000)

# What PostgreSQL knows of the table when the claims are made.
STATISTICS = {
    "none": ("", ""),
    "fresh": ("", "analyze agent_executions"),
    # one type, one user, and nothing waits: every guess that is made from these is wrong
    "misleading": (
        """
        insert into auth.users (id, email) values (md5('u0')::uuid, 'first@example.org');
        insert into agent_executions (user_id, agent_type, input_data)
        select md5('u0')::uuid, 'fair', '{}' from generate_series(1, 300);
        analyze agent_executions;
        delete from auth.users;
        """,
        "",
    ),
}

READ = """
select s.seq_scan,
       (select jsonb_object_agg(i.indexrelid::regclass::text, pg_stat_get_xact_tuples_returned(i.indexrelid))
        from pg_index i where i.indrelid = s.relid and pg_stat_get_xact_numscans(i.indexrelid) > 0) as by_index
from pg_stat_xact_user_tables s where s.relid = 'public.agent_executions'::regclass
"""


@pytest.fixture(params=sorted(STATISTICS))
def crowded(request: pytest.FixtureRequest, fresh_world: World) -> World:
    """A database with the five queues, and statistics of this kind."""
    fresh_world.worker(*({**DEFINITION, "agent_type": name} for name in QUEUES))
    before, after = STATISTICS[request.param]
    fresh_world.connection.execute(before)
    fresh_world.sql("alter table agent_executions set (autovacuum_enabled = false)")
    fill(fresh_world.connection, LENGTHS)
    fresh_world.connection.execute(after)
    fresh_world.sql("select pg_stat_force_next_flush()")  # what the seed read is not the first claim's
    return fresh_world


def test_a_claim_reads_little_however_long_the_queue_is(crowded: World) -> None:
    for queue in QUEUES:
        for turn in range(8):  # from the sixth time on, PostgreSQL may use one plan for all values
            with crowded.acting(None) as cursor:
                cursor.execute("select p.ids from runhold.pick(array[%s], %s) p", (queue, N))
                ids = cursor.fetchall()[0]["ids"]
                cursor.execute("select runhold.note_turns(%s), runhold.next_due(array[%s])", (ids, queue))
                cursor.execute(READ)
                (read,) = cursor.fetchall()
                cursor.execute("select pg_stat_force_next_flush()")  # else the next claim's would be added
                cursor.execute(
                    "update agent_executions set status = 'running', worker_id = gen_random_uuid(),"
                    " definition_id = gen_random_uuid(), effective_limits = '{}' where id = any (%s)",
                    (ids,),
                )
            assert len(ids) == (0 if queue == "future" else N), (queue, turn)
            assert read["seq_scan"] == 0, (queue, turn)
            # the head of the queue, a look at 100 users and at the runs of each, and what is found again by its id
            assert sum(read["by_index"].values()) < 1500, (queue, turn, read)
