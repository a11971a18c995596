"""What Realtime does on bad days, one test or more for each hazard: runs start all the same, and push comes back."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from earshot import Earshot, listening
from misbehaving import Misbehaving, is_broadcast, is_wake
from supabase_project import Project

from runhold.runtime import claims, wake
from runhold.testing.chaos.patience import eventually

HAZARDS: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: (
        "a callback that raises ends the library's listener, which stays 'connected'",
        "callbacks are guarded; a listener that ends is trouble",
        ("test_an_error_of_ours_in_a_callback_does_not_end_the_listening",),
    ),
    2: (
        "the server closes with 1000 or 1001 and old libraries never notice",
        "realtime >= 2.34, checked at the start; any close is trouble",
        ("test_a_socket_that_the_server_closes_is_replaced",),
    ),
    3: (
        "a system error and phx_close drop the channel for good",
        "any state but SUBSCRIBED is trouble: a new client, for ever, with jittered pauses",
        ("test_channels_that_the_server_ends_are_joined_anew",),
    ),
    4: (
        "after an outage longer than five attempts the library's reconnecting is dead",
        "the supervisor is ours, the library's own is off",
        ("test_a_long_outage_ends_by_itself",),
    ),
    5: (
        "nobody looks whether heartbeats are answered",
        "the probe: each heartbeat of the worker sends one through the database, and it must be heard",
        ("test_a_socket_that_freezes_is_found_out", "test_heartbeats_without_answers_do_no_harm"),
    ),
    6: (
        "a rejoin repeats the old token",
        "never a rejoin: a new client with a new socket",
        ("test_no_join_is_tried_with_a_token_that_has_expired",),
    ),
    7: (
        "a join that was refused is never tried again",
        "a refused join is trouble",
        ("test_joins_that_are_refused_are_tried_again",),
    ),
    8: (
        "a frame over 1 MiB closes the socket",
        "wake-ups are empty; the close is trouble",
        ("test_an_oversized_frame_costs_one_connection",),
    ),
    9: (
        "the join is answered seconds before events come",
        "look again when the server says it is ready, and when the first probe is heard",
        ("test_what_was_inserted_between_the_join_and_the_first_event_is_found",),
    ),
    10: (
        "the server's slot is temporary: whatever happens while it restarts is never told",
        "polls are the truth",
        ("test_what_is_lost_in_a_gap_is_found_by_the_next_poll",),
    ),
    11: (
        "over its rate the server skips events silently",
        "empty statement-level wake-ups, ten a second at most; polls that find what was not told replace the connection",
        (
            "test_wake_ups_that_get_lost_while_probes_come_through",
            "test_a_thousand_runs_are_a_few_tiny_messages",
        ),
    ),
    12: (
        "postgres_changes checks RLS per row and subscriber",
        "no table is published for workers: broadcast only",
        ("test_workers_publish_no_table",),
    ),
    13: (
        "a reconnection that 'works' and brings no events",
        "not heard until a probe comes through it",
        ("test_a_connection_that_joins_and_brings_nothing_is_not_believed",),
    ),
    14: (
        "connections, joins and messages have quotas, and loops get projects suspended",
        "one socket with two topics per process; pauses grow to a minute with full jitter, also when joins succeed",
        ("test_one_socket_and_two_topics", "test_a_server_that_ends_what_it_granted_is_not_stormed"),
    ),
    15: (
        "a wrong publication, or no walsender: silence",
        "degraded, not dead; `runhold doctor` sends a probe of its own (test_doctor.py)",
        ("test_a_connection_that_joins_and_brings_nothing_is_not_believed",),
    ),
    16: (
        "is_connected means nothing, and there are no other numbers",
        "our own: push, poll, missed, last event, last probe, resubscribes",
        ("test_the_numbers_tell_what_happened",),
    ),
    17: (
        "the key is in the socket's URL, and logs at DEBUG have it",
        "records about sockets whose URL carries a key are dropped below INFO; every test here logs at DEBUG and looks",
        ("test_the_key_was_on_the_wire",),
    ),
    18: (
        "the token that the server makes of an sb_secret key runs out at a time unknown",
        "a planned replacement every 45 minutes, and 3",
        ("test_connections_are_replaced_as_planned_and_no_run_waits",),
    ),
}
"""Number in the list of hazards → what happens, what is done about it, where it is tested."""


def test_every_hazard_has_its_test() -> None:
    assert sorted(HAZARDS) == list(range(1, 19))
    for _, _, tests in HAZARDS.values():
        assert tests
        for name in tests:
            assert name in globals()


# --------------------------------------------------------------------------------- sockets and channels end


async def test_an_error_of_ours_in_a_callback_does_not_end_the_listening(
    ear: Earshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised = asyncio.Event()

    def broken() -> None:
        raised.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(ear.listener, "_on_wake", broken)
        await ear.submit(after_silence=True)
        await asyncio.wait_for(raised.wait(), 10)
    await ear.push_works()
    assert ear.listener.stats.joins == 1
    assert "a bug" in caplog.text
    caplog.clear()  # that one was expected


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1011, 1012])
async def test_a_socket_that_the_server_closes_is_replaced(ear: Earshot, code: int) -> None:
    await ear.middle.close_all(code)
    await ear.deaf()
    await ear.run_one()
    await ear.heard()
    await ear.push_works()
    assert ear.middle.opened == 2


@pytest.mark.parametrize("message", ["Too many messages per second", "You no longer have permission"])
async def test_channels_that_the_server_ends_are_joined_anew(ear: Earshot, message: str) -> None:
    await ear.middle.lines[0].end_channels(message)
    await ear.deaf()
    await ear.run_one()
    await ear.heard()
    await ear.push_works()


async def test_no_join_is_tried_with_a_token_that_has_expired(ear: Earshot) -> None:
    await ear.middle.expire_tokens()
    await ear.deaf()
    await ear.run_one()
    await ear.heard()
    await ear.push_works()
    assert (ear.middle.on_stale, ear.middle.opened) == (0, 2)


async def test_a_long_outage_ends_by_itself(ear: Earshot) -> None:
    ear.middle.down = True
    await ear.middle.close_all(1011)
    await ear.deaf()
    await ear.run_one()
    await eventually(lambda: ear.middle.asked > 8, "the attempts")
    await ear.run_one()
    assert ear.claimer.found["poll"] >= 1
    ear.middle.down = False
    await ear.heard()
    await ear.push_works()


async def test_joins_that_are_refused_are_tried_again(ear: Earshot) -> None:
    ear.middle.refuse_joins = 4
    await ear.middle.close_all(1001)
    await ear.deaf()
    await ear.run_one()
    await ear.heard()
    await ear.push_works()
    assert ear.middle.refuse_joins == 0


async def test_an_oversized_frame_costs_one_connection(ear: Earshot) -> None:
    await ear.middle.broadcast("runhold:workers", {"text": "x" * (1 << 20)})
    await eventually(lambda: ear.middle.opened == 2, "another connection")
    await ear.run_one()
    await ear.heard()
    await ear.push_works()


# ------------------------------------------------------------------------------------- silence, unannounced


async def test_a_socket_that_freezes_is_found_out(ear: Earshot) -> None:
    ear.middle.freeze()
    await ear.deaf()
    await ear.run_one()
    assert ear.claimer.found["poll"] >= 1
    ear.middle.thaw()
    await ear.heard()
    await ear.push_works()


async def test_heartbeats_without_answers_do_no_harm(stack: Project, middle: Misbehaving, user: UUID) -> None:
    lost: list[dict[str, Any]] = []

    def loses(frame: dict[str, Any]) -> bool:
        if frame["topic"] == "phoenix":
            lost.append(frame)
        return frame["topic"] == "phoenix"

    middle.loses = loses
    async with listening(stack, middle, user) as ear:
        await ear.heard()
        await ear.push_works()
        assert lost
        assert ear.listener.stats.joins == 1


async def test_a_connection_that_joins_and_brings_nothing_is_not_believed(ear: Earshot) -> None:
    ear.middle.loses = is_broadcast
    await ear.middle.close_all(1001)
    await eventually(lambda: ear.middle.opened >= 3, "several connections")
    assert not ear.listener.is_heard
    await eventually(lambda: _one_and(ear, ear.claimer.found["poll"] > 0), "a run found by polling")
    ear.middle.loses = lambda frame: False
    await ear.heard()
    await ear.push_works()


async def test_what_was_inserted_between_the_join_and_the_first_event_is_found(
    stack: Project, middle: Misbehaving, user: UUID
) -> None:
    lost: list[dict[str, Any]] = []

    def loses(frame: dict[str, Any]) -> bool:
        if is_wake(frame):
            lost.append(frame)
        return is_broadcast(frame)

    middle.loses = loses
    async with listening(stack, middle, user, poll_s=60) as ear:  # no poll will find it
        await eventually(lambda: len(middle.joins) == 2, "the joins")
        looks = ear.claimer.looked
        await eventually(lambda: looks["push"] >= 2, "the looks that joining is a reason for")
        run = await ear.submit(after_silence=True)
        await eventually(lambda: lost, "a wake-up that nobody heard")
        middle.loses = lambda frame: False
        await ear.done(run)
        await ear.heard()
        assert ear.claimer.found["poll"] == 0


async def test_what_is_lost_in_a_gap_is_found_by_the_next_poll(
    ear: Earshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ear.push_works()
    monkeypatch.setattr(claims, "POLL_HEARD_S", 1.0)
    lost: list[dict[str, Any]] = []

    def loses(frame: dict[str, Any]) -> bool:
        if is_wake(frame):
            lost.append(frame)
        return is_wake(frame)

    while not ear.claimer.missed:  # it may be found by the second look after an earlier wake-up
        lost.clear()
        ear.middle.loses = loses
        run = await ear.submit(after_silence=True)
        await eventually(lambda: lost, "a wake-up that nobody heard")
        ear.middle.loses = lambda frame: False
        await ear.done(run)
    assert ear.claimer.missed == 1
    await ear.push_works()
    assert ear.listener.stats.joins == 1  # one is no reason to connect anew


async def test_wake_ups_that_get_lost_while_probes_come_through(
    ear: Earshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_HEARD_S", 0.5)
    ear.middle.loses = is_wake
    await eventually(lambda: _one_and(ear, ear.listener.stats.joins >= 2), "another connection")
    assert ear.claimer.missed >= 3
    assert ear.listener.stats.last_trouble == "polls found runs that it did not tell of"
    ear.middle.loses = lambda frame: False
    await ear.heard()
    await ear.push_works()


async def _one_and(ear: Earshot, ready: bool) -> bool:
    if not ready:
        await ear.run_one()
    return ready


@pytest.mark.parametrize("how", ["doubled", "late"])
async def test_events_that_come_twice_or_late_change_nothing(ear: Earshot, how: str) -> None:
    ear.middle.doubles, ear.middle.delay_s = how == "doubled", 0.3 if how == "late" else 0.0
    wakes = ear.listener.stats.events
    for _ in range(3):
        await ear.push_works()
    assert ear.listener.is_heard
    assert ear.listener.stats.joins == 1
    if how == "doubled":
        await eventually(lambda: ear.listener.stats.events - wakes >= 6, "each event twice")


# ---------------------------------------------------------------------------------------- what we cost others


async def test_one_socket_and_two_topics(ear: Earshot) -> None:
    await ear.push_works()
    assert (ear.middle.opened, len(ear.middle.lines)) == (1, 1)
    topics = [join["topic"] for join in ear.middle.joins]
    assert len(topics) == len(set(topics)) == 2
    assert all(not join["payload"]["config"]["postgres_changes"] for join in ear.middle.joins)


async def test_a_server_that_ends_what_it_granted_is_not_stormed(
    ear: Earshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def uniform(low: float, high: float) -> float:
        if low == 0 and high in [0.02 * 2**n for n in range(1, 8)]:
            pauses.append(high)
        return high

    monkeypatch.setattr("random.uniform", uniform)
    ear.middle.channels_end = "Too many messages per second"
    await ear.middle.close_all(1011)
    await eventually(lambda: len(pauses) >= 4, "attempts")
    assert pauses[:4] == [0.04, 0.08, 0.16, 0.32]
    await ear.run_one()
    ear.middle.channels_end = None
    await ear.heard()
    await ear.push_works()


async def test_a_thousand_runs_are_a_few_tiny_messages(ear: Earshot) -> None:
    await ear.push_works()
    before = len(ear.middle.sent)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(ear.submit() for _ in range(60)))
    cursor = await ear._database.execute(
        "insert into agent_executions (user_id, agent_type, input_data, wake_at) "
        "select %s, 'listener', '{}', now() + interval '1 day' from generate_series(1, 940)",
        [ear._user],
    )
    assert cursor.rowcount == 940
    await ear.push_works()
    seconds = loop.time() - began
    wakes = [text for text in ear.middle.sent[before:] if '"wake"' in text]
    assert len(wakes) <= 10 * seconds + 3
    assert max(map(len, wakes)) < 400


async def test_workers_publish_no_table(ear: Earshot) -> None:
    """Frontends may, by a file in ``sql/``; a table that a test published is none of the migrations'."""
    cursor = await ear._database.execute(
        "select tablename from pg_publication_tables where pubname = 'supabase_realtime' and tablename ~ '^agent_'"
    )
    assert await cursor.fetchall() == []


# --------------------------------------------------------------------------------------------- all the while


async def test_connections_are_replaced_as_planned_and_no_run_waits(
    stack: Project, middle: Misbehaving, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "RECYCLE_S", 0.4)
    async with listening(stack, middle, user, poll_s=60) as ear:  # whatever is found is found by push
        while ear.listener.stats.joins < 4:
            await ear.run_one()
        assert ear.listener.stats.last_trouble is None
        monkeypatch.setattr(wake, "RECYCLE_S", 60)
        await ear.push_works()
        assert ear.claimer.found["poll"] == 0


@pytest.mark.usefixtures("signs_tokens")
async def test_the_key_was_on_the_wire(ear: Earshot, stack: Project) -> None:
    """What the fixture ``calm`` looks for in the logs of every test here was there to be logged."""
    token = stack.env()["RUNHOLD_WORKER_TOKEN"]
    assert token.startswith("eyJ")
    assert ear.middle.joins[0]["payload"]["access_token"] == token


async def test_the_numbers_tell_what_happened(ear: Earshot) -> None:
    await ear.push_works()
    before = ear.report.fields()
    assert (before["heard"], before["resubscribes"], before["trouble"]) == (True, 0, None)
    assert before["push"]
    assert before["last_event_at"]
    assert before["last_probe_ok"]
    ear.middle.down = True
    await ear.middle.close_all(1011)
    await ear.deaf()
    polls = ear.claimer.found["poll"]
    await eventually(lambda: _one_and(ear, ear.claimer.found["poll"] > polls), "a run found by polling")
    ear.middle.down = False
    await ear.heard()
    after = ear.report.fields()
    assert after["poll"] == ear.claimer.found["poll"]
    assert after["resubscribes"] == 1
    assert after["trouble"]
    assert after["missed"] == 0
