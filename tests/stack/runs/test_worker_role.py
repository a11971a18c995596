"""A worker whose role may do what workers do and nothing else, through a whole run; and tokens that let nobody in."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from realtime import RealtimeSubscribeStates
from test_python_frontend import private, subscribe
from test_runs import decide, open_review
from town import Town, eventually

pytestmark = pytest.mark.usefixtures("signs_tokens")


@pytest.mark.realtime
async def test_a_whole_run_without_the_secret_key_woken_by_push(town: Town) -> None:
    """Polls come once an hour: what is found in time, before and after the review, was told by Realtime."""
    worker = town.worker("--poll", "3600", SUPABASE_SECRET_KEY="", lease_s=1.5)
    await eventually(lambda: "worker ready" in worker.log, "the worker")
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, ["call", "send", {"to": "ada", "text": "hello"}], ["say", "Sent."])
    await town.until(user, run_id, "awaiting_review")
    heard: list[Any] = []
    topic = private(user, f"execution:{run_id}")
    topic.on_broadcast("progress", heard.append)
    assert await subscribe(topic) == RealtimeSubscribeStates.SUBSCRIBED
    await decide(reviewer, await open_review(reviewer, run_id), status="approved")
    row = await town.until(user, run_id, "completed")
    assert (row["result"], town.ledger) == ({"text": "Sent."}, [["send", "ada: hello"]])
    await eventually(lambda: heard, "progress")
    assert await worker.terminate() == 0


@pytest.mark.parametrize(
    ("secret", "claims", "says"),
    [
        ("the stack's", {"exp": 1_500_000_000}, "RUNHOLD_WORKER_TOKEN ended on 2017-07-14"),
        ("the stack's", {"role": "service_role"}, "another role than runhold_worker"),
        ("x" * 40, {}, "the project refuses the worker's token"),
    ],
)
async def test_a_token_that_lets_nobody_in_ends_the_worker_with_a_sentence(
    town: Town, secret: str, claims: dict[str, Any], says: str
) -> None:
    given = {"role": "runhold_worker", "exp": int(time.time()) + 86400, **claims}
    key = town.stack.jwt_secret if secret == "the stack's" else secret
    token = jwt.encode(given, key, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]
    worker = town.worker(RUNHOLD_WORKER_TOKEN=token, RUNHOLD_START_TIMEOUT="1")
    assert await worker.ended() == 4
    assert says in worker.log
    assert token not in worker.log
    assert "Traceback" not in worker.log
