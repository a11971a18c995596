"""supabase-js under Node: the tests in tests/js, and the blocks of the frontends' guide, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from town import Town

ROOT = Path(__file__).parents[3]
JS = ROOT / "tests" / "js"
GUIDE = ROOT / "docs" / "guides" / "frontends.md"
PASSWORD = "a long passphrase"


@pytest.fixture
def published(town: Town) -> Iterator[None]:
    """The opt-in publication of sql/realtime_postgres_changes.sql."""
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        connection.execute((ROOT / "sql" / "realtime_postgres_changes.sql").read_bytes())
        yield
        connection.execute("alter publication supabase_realtime drop table agent_executions, agent_reviews")


async def node(town: Town, *arguments: str, **env: str) -> tuple[int, str]:
    """Run a program with the stack's addresses: its exit status and all that it said. The scripted model lives in this
    event loop, so it must go on meanwhile."""
    process = await asyncio.create_subprocess_exec(
        "node",
        *arguments,
        cwd=JS,
        env={**os.environ, **town.stack.env(), "REVIEWER_PASSWORD": PASSWORD, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")


async def email_of(town: Town, client: object) -> str:
    response = await client.auth.get_user()  # pyright: ignore
    return response.user.email


@pytest.mark.usefixtures("published")
async def test_supabase_js_does_all_that_a_frontend_and_a_reviewer_do(town: Town) -> None:
    town.worker()
    reviewer = await town.reviewer()
    status, said = await node(town, "--test", "runs.test.mjs", REVIEWER_EMAIL=await email_of(town, reviewer))
    assert status == 0, said[-8000:] + town.logs


async def test_blocks_of_the_frontends_guide_run_as_they_stand(town: Town, tmp_path: Path) -> None:
    town.worker()
    reviewer = await town.reviewer()
    blocks = re.findall(r"```js\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 6
    text = "\n".join(blocks).replace("letter_writer", "clerk")
    text = text.replace('{ customer: "Ada" }', '{ plan: [["call", "send", { to: "ada", text: "x" }]] }')
    text = text.replace('{ customer: "Grace" }', '{ plan: [["say", "Hello."]] }')
    # the guide's reader waits for the review in their own way; the test does it before "Decide"
    text = text.replace(
        "const { data: open }",
        'await eventually(async () => (await read()).status === "awaiting_review")\nconst { data: open }',
    )
    program = JS / f"guide-{os.getpid()}.tmp.mjs"
    program.write_text(
        'import { eventually, goodbye, signedIn, signedUp } from "./people.mjs"\n'
        'const { supabase } = await signedUp("guide")\n'
        "const { supabase: reviewer } = await signedIn(process.env.REVIEWER_EMAIL, process.env.REVIEWER_PASSWORD)\n"
        + text
        + "\nif (error) throw error\n"
        + 'if (open.length !== 1) throw new Error("the reviewer found " + open.length)\n'
        + 'if (verdicts[0].code !== "RH007") throw new Error("no verdict but " + JSON.stringify(verdicts))\n'
        + 'if (!timeline.length) throw new Error("no timeline")\n'
        + 'if (!cancelled.id) throw new Error("no answer to the cancel")\n'
        + 'if (!message.id || again.forked_from !== run.id) throw new Error("no fork to talk to")\n'
        + 'if (refusal.code !== "RH018") throw new Error("no refusal but " + JSON.stringify(refusal))\n'
        + 'if (health.runs < 1) throw new Error("no health")\n'
        + "await goodbye()\n",
        encoding="utf-8",
    )
    try:
        status, said = await node(town, program.name, REVIEWER_EMAIL=await email_of(town, reviewer))
    finally:
        program.unlink()
    assert status == 0, said[-6000:] + town.logs
    assert "Assertion failed" not in said
