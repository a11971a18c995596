"""What happens on the stage, told while it happens."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from rich.rule import Rule
from rich.text import Text

from runhold.cli.backend import Backend, Row, answered
from runhold.cli.demo import gate
from runhold.cli.demo.cast import REVIEWER, USER
from runhold.cli.demo.gate import Decision
from runhold.cli.demo.stage import Stage
from runhold.cli.output import out, program, tell
from runhold.cli.person import Person
from runhold.cli.render import detail_text, fields, plain, review_panel, short
from runhold.cli.story import Story
from runhold.cli.watching import follow

AGENT_TYPE: Final = "compliance_document_generator"
RECIPIENT: Final = "legal@example.com"
FIRST_LINES: Final = 14
CLAIM_LOOKS: Final = 10
CLAIM_PAUSE_S: Final = 0.03


async def play(stage: Stage, user: Person, reviewer: Person, *, decide: str) -> Row:
    """One run from its insert to its end; the run's row.

    :param decide: ``ask``, ``approve`` or ``reject``.
    """
    backend, judge = Backend(user), Backend(reviewer)
    out.print(Rule("the run", align="left", style="dim"))
    earlier = len(stage.claims())  # runs that an interrupted demo left behind go on, too
    row = await insert_run(user)
    names = {user.user_id: f"{USER} (user)", reviewer.user_id: f"{REVIEWER} (reviewer)"}
    claims: list[str] = []
    story = Story(names, width=out.width, claims=claims)
    decided: set[str] = set()
    with out.status("", spinner="dots") as status:
        async for run, timeline in follow(backend, str(row["id"])):
            await _hear_of_claims(stage, timeline, claims, earlier)
            for line in story.more(timeline):
                tell(line)
            status.update(_standing(run))
            if run["status"] == "awaiting_review":
                status.stop()
                for review in await judge.reviews(all_of_them=False, limit=100):
                    if review["execution_id"] == run["id"] and review["id"] not in decided:
                        decided.add(review["id"])
                        await _decide(judge, review, decide=decide)
                status.start()
            row = run
    return row


async def _hear_of_claims(stage: Stage, timeline: list[Row], claims: list[str], earlier: int) -> None:
    """How the worker came to look is in its log alone, which may be written a moment later."""
    claimed = sum(item.get("event") == "claimed" for item in timeline)
    for _ in range(CLAIM_LOOKS):
        claims[:] = stage.claims()[earlier:]
        if len(claims) >= claimed:
            return
        await asyncio.sleep(CLAIM_PAUSE_S)


async def insert_run(user: Person) -> Row:
    """What a frontend does: insert a row, as the signed-in user, with the Supabase client."""
    project = "this Python environment"
    run: Any = {"agent_type": AGENT_TYPE, "input_data": {"project": project, "recipient": RECIPIENT}}
    table: Any = user.client.table("agent_executions")  # its methods are typed in part only
    answer = await answered(table.insert(run).execute(), user.client)
    return answer.data[0]


async def _decide(judge: Backend, review: Row, *, decide: str) -> None:
    out.print()
    out.print(Text.assemble((f"  {REVIEWER}", "bold"), " is a reviewer. She sees:"))
    out.print(review_panel(review), width=min(out.width, 100))
    decision = await _decision(review, decide)
    answer = await judge.decide(str(review["id"]), decision.changes)
    columns = ", ".join(
        f"{name} = …" if name != "status" else f"status = '{answer['status']}'" for name in decision.changes
    )
    out.print(
        Text.assemble(
            (f"  {REVIEWER}", "bold"), f" {decision.word}: ", (f"update agent_reviews set {columns}", "cyan")
        )
    )
    out.print()


async def _decision(review: Row, decide: str) -> Decision:
    if review["kind"] != "approval":
        out.print(Text("  The demo does not know what to say to this, and rejects it.", style="yellow"))
        return gate.rejected("This is a demo.")
    if decide == "ask":
        return await gate.ask(review)
    if decide == "reject":
        return gate.rejected("No e-mails today, please.")
    return gate.approved()


def _standing(run: Row) -> Text:
    words = {
        "pending": "waiting for a worker",
        "running": "the worker is at it",
        "awaiting_review": "waiting for a person",
    }
    standing = words.get(run["status"], run["status"])
    return Text(f"{standing} · step {run['step_count']} · {run['token_count']:,} tokens", style="dim")


async def tell_the_end(stage: Stage, user: Person, run: Row) -> None:
    """What came of it, and where to look next."""
    document = await _document(user, run)
    out.print()
    if document is not None:
        out.print(Rule("the document", align="left", style="dim"))
        lines = str(document["body"]).splitlines()
        for line in lines[:FIRST_LINES]:
            tell(Text(plain(line)))
        out.print(
            Text(f"… {len(lines) - FIRST_LINES} more lines, in table compliance_documents", style="dim")
        )
        out.print()
    out.print(Rule("what happened", align="left", style="dim"))
    out.print(fields(_summary(stage, run), indent=2))
    out.print()
    out.print(Rule("look next", align="left", style="dim"))
    commands = {
        "stack start": "this database, again, in the background",
        f"show {short(run['id'])}": "the whole story of this run, from Postgres",
        "reviews --all": "who decided what",
        "health": "completion, steps, tools, tokens over the last 7 days",
        "dev agent.py": "your own agent, with a worker that reloads",
    }
    if stage.stack is None:
        del commands["stack start"]
    runhold = program()
    width = len(runhold) + max(map(len, commands)) + 4
    for command, what in commands.items():
        out.print(Text.assemble((f"  {runhold} {command}".ljust(width + 2), "bold cyan"), what))


def _summary(stage: Stage, run: Row) -> dict[str, Any]:
    mails = stage.mailbox.mails
    used = (
        f"{run['step_count']} steps, {run['tool_call_count']} tool calls, {run['token_count']:,} tokens, "
        f"{run['active_ms'] / 1000:.1f} s of work, {run['review_ms'] / 1000:.1f} s waiting for a person"
    )
    sent = ", ".join(f"“{mail.subject}” to {', '.join(mail.recipients)}" for mail in mails)
    return {
        "run": _ending(run),
        "used": used,
        "e-mails": f"{len(mails)} arrived at the mail server: {sent}"
        if mails
        else "none arrived at the mail server",
    }


def _ending(run: Row) -> Text:
    text = Text(f"{run['id']} ").append(run["status"], style=run["status"])
    if run["status"] == "completed":
        return text.append(f": {plain(run['result'].get('summary', ''))}")
    return text.append(f": {run['error']} {detail_text(run['error_detail'])}")


async def _document(user: Person, run: Row) -> Row | None:
    query = user.client.table("compliance_documents").select("id, body").eq("execution_id", str(run["id"]))
    rows: Any = (await answered(query.execute(), user.client)).data
    return rows[0] if rows else None
