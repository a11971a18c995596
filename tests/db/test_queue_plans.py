"""What a claim reads: a bounded number of rows in the order of an index, however long the queue is, and whatever
PostgreSQL believes about it.

The same queues with a million runs each, measured, with their plans: docs/plans/claim-*.txt.
"""

from __future__ import annotations

import pytest
from world import DEFINITION, World

N = 8
QUEUES = ("plain", "future", "behind", "capped", "fair")

# Five queues of 3 000 to 8 000 runs; those that no claim may read through are far longer than what it may read.
SEED = """
alter table agent_executions disable trigger user;
alter table agent_executions set (autovacuum_enabled = false);
insert into auth.users (id, email) select md5('u' || i)::uuid, i || '@example.org' from generate_series(0, 3000) i;
update agent_types set max_concurrent_per_user = 1 where name = 'capped';
insert into agent_executions (user_id, agent_type, input_data, created_at)
select md5('u' || i % 3000)::uuid, 'plain', '{}', now() - interval '1 day' + i * interval '1 ms' from generate_series(1, 6000) i;
insert into agent_executions (user_id, agent_type, input_data, created_at, wake_at)
select md5('u' || i % 3000)::uuid, 'future', '{}', now() - interval '1 day', now() + interval '1 day' + i * interval '1 ms'
from generate_series(1, 6000) i;
insert into agent_executions (user_id, agent_type, input_data)
select md5('u' || i)::uuid, 'behind', '{}' from generate_series(1, 500) i;
insert into agent_executions (user_id, agent_type, input_data, status, worker_id)
select md5('u' || i)::uuid, 'capped', '{}', 'running', gen_random_uuid() from generate_series(1, 50) i;
insert into agent_executions (user_id, agent_type, input_data, created_at)
select md5('u' || 1 + i % 50)::uuid, 'capped', '{}', now() - interval '1 day' + i * interval '1 ms' from generate_series(1, 5000) i;
insert into agent_executions (user_id, agent_type, input_data)
select md5('u' || i)::uuid, 'capped', '{}' from generate_series(51, 2000) i;
insert into agent_executions (user_id, agent_type, input_data, created_at)
select md5('u0')::uuid, 'fair', '{}', now() - interval '1 day' + i * interval '1 ms' from generate_series(1, 6000) i;
insert into agent_executions (user_id, agent_type, input_data)
select md5('u' || i)::uuid, 'fair', '{}' from generate_series(1, 2000) i;
alter table agent_executions enable trigger user;
"""

# What PostgreSQL knows of the table when the claims are made.
STATISTICS = {
    "none": SEED,
    "fresh": f"{SEED}; analyze agent_executions",
    # one type, one user, and nothing waits: every guess that is made from these is wrong
    "misleading": f"""
        insert into auth.users (id, email) values (md5('u0')::uuid, 'first@example.org');
        insert into agent_executions (user_id, agent_type, input_data)
        select md5('u0')::uuid, 'fair', '{{}}' from generate_series(1, 300);
        analyze agent_executions;
        delete from auth.users;
        {SEED}
    """,
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
    for statement in STATISTICS[request.param].split(";"):
        fresh_world.sql(statement.replace("%", "%%"))
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
                    "update agent_executions set status = 'running', worker_id = gen_random_uuid() where id = any (%s)",
                    (ids,),
                )
            assert len(ids) == (0 if queue == "future" else N), (queue, turn)
            assert read["seq_scan"] == 0, (queue, turn)
            # the head of the queue, a look at 100 users and at the runs of each, and what is found again by its id
            assert sum(read["by_index"].values()) < 1500, (queue, turn, read)
