"""Reviewers are told by a webhook, by real workers: at least once, whatever happens to the worker."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import clerk
import psycopg
import pytest
from endpoint import endpoint
from psycopg.types.json import Jsonb
from town import Town, eventually

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "notifications.md"
NAME = "RUNHOLD_WEBHOOK_SECRET"
SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()


def sql(town: Town, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return cursor.fetchall() if cursor.description else []


def told(town: Town) -> list[tuple[Any, ...]]:
    return sql(town, "select outcome, attempts from runhold.outbox")


def verify_of_the_guide() -> Any:
    """The function that the guide shows."""
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    return names["verify"]


@pytest.fixture
def untold(town: Town) -> Any:
    """Types of later tests tell nobody."""
    yield
    sql(town, "update agent_types set notify = null where name = %s", clerk.agent.type)


@pytest.mark.usefixtures("untold")
async def test_worker_killed_before_it_could_say_so_has_it_told_again_under_the_same_id(town: Town) -> None:
    async def kill() -> int:
        town.workers[0].kill()  # it was heard; nobody will know
        return 200

    async with endpoint(kill, 200) as there:
        sql(
            town,
            "update agent_types set notify = %s where name = %s",
            Jsonb({"webhook": {"url": there.url, "secret_name": NAME}}),
            clerk.agent.type,
        )
        town.worker(**{NAME: SECRET})
        user = await town.person()
        run = await town.submit(user, ["call", "send", {"to": "ada", "text": "x"}])
        await eventually(lambda: there.requests, "the first delivery")
        await eventually(lambda: not town.workers[0].running, "the end of the worker")
        assert told(town) == [(None, 1)]

        sql(
            town, "update runhold.outbox set next_attempt_at = now()"
        )  # as if the minute of the claim were over
        town.worker(**{NAME: SECRET})
        await eventually(lambda: len(there.requests) > 1, "the second delivery")
        await eventually(lambda: told(town) == [("delivered", 2)], "its confirmation")
    verify = verify_of_the_guide()
    assert len(there.requests) == 2
    assert len({headers["webhook-id"] for headers, _ in there.requests}) == 1
    assert len({body for _, body in there.requests}) == 1
    assert all(verify(SECRET, headers, body) for headers, body in there.requests)
    headers, body = there.requests[0]
    assert not verify(SECRET, headers, body + b" ")
    assert json.loads(body)["data"]["execution_id"] == run
    assert SECRET not in town.logs
