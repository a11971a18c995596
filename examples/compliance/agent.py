"""``compliance_document_generator``: which licences does this Python environment run on, and may it?

    runhold worker examples/compliance/agent.py
    runhold submit compliance_document_generator --input '{"project": "billing"}' --watch

The model decides what to look at and what to say; facts come from tools. Reading needs nobody's leave, the
document is saved as the run's user under row level security, and what leaves the house waits for a person.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, EmailStr, Field, TypeAdapter

from runhold import Agent, Limits, RunContext, ToolFailed, tool

from .delivery import deliver
from .document import Assessment, Finding, assess, render
from .environment import licence_texts, read_environment
from .policy import Rule

MAX_LISTED: Final = 100
"""Names that one answer lists: the model reads totals and exceptions, the document holds every package."""

MAX_LICENCE_CHARS: Final = 4_000

Names = Annotated[list[str], Field(max_length=1_000)]
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\r\n]+$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class ComplianceRequest(BaseModel):
    """What a user asks for."""

    project: Line
    recipient: EmailStr | None = Field(default=None, description="Who gets the document by e-mail.")
    regulator: EmailStr | None = Field(default=None, description="The authority to submit it to.")
    packages: Names | None = Field(
        default=None, description="Only these packages; all that are installed without."
    )


class ComplianceDocument(BaseModel):
    """What a run ends with. The document itself is the row ``document_id`` of ``compliance_documents``."""

    document_id: UUID
    project: str
    packages: int
    allowed: int
    review: int
    forbidden: int
    delivered_to: list[str] = Field(
        description="Addresses that it was sent to; empty if nobody approved that."
    )
    summary: str


class PackageNote(BaseModel):
    package: str
    licence: str
    reason: str


class Inventory(BaseModel):
    python: str
    packages: int
    by_licence: dict[str, int]
    unknown: list[str]
    duplicates: list[str]
    unreadable: list[str]
    missing: list[str]


class PolicyReport(BaseModel):
    allowed: int
    review: int
    forbidden: int
    to_review: list[PackageNote]
    not_allowed: list[PackageNote]
    omitted: int


class SavedDocument(BaseModel):
    document_id: str
    packages: int
    allowed: int
    review: int
    forbidden: int
    characters: int


@tool(effect="read")
def list_distributions(packages: Names | None = None) -> Inventory:
    """Read which Python packages are installed and under which licences, from their own metadata.

    Without ``packages`` it reads the whole environment.
    """
    environment = read_environment(packages)
    by_licence = assess(environment, ()).by_licence()
    return Inventory(
        python=platform.python_version(),
        packages=len(environment.packages),
        by_licence=dict(by_licence[:MAX_LISTED]),
        unknown=[one.name for one in environment.packages if one.licence is None][:MAX_LISTED],
        duplicates=environment.duplicates[:MAX_LISTED],
        unreadable=environment.unreadable[:MAX_LISTED],
        missing=environment.missing[:MAX_LISTED],
    )


@tool(effect="read")
def read_licence_file(package: Line) -> dict[str, str]:
    """Read the licence files that an installed package brings along: file name to text, shortened."""
    texts = licence_texts(package)
    if not texts:
        raise ToolFailed(f"{package} has no licence file, or is not installed.")
    share = MAX_LICENCE_CHARS // len(texts)
    return {name: text[:share] for name, text in texts[:20]}


@tool(effect="read")
async def check_policy(ctx: RunContext, packages: Names | None = None) -> PolicyReport:
    """Check the installed packages against the company's licence policy."""
    assessment = await _assessment(ctx, packages)
    return PolicyReport(
        allowed=assessment.count("allowed"),
        review=assessment.count("review"),
        forbidden=assessment.count("forbidden"),
        to_review=[_note(finding) for finding in assessment.of("review")[: MAX_LISTED // 2]],
        not_allowed=[_note(finding) for finding in assessment.of("forbidden")[: MAX_LISTED // 2]],
        omitted=sum(
            max(0, assessment.count(verdict) - MAX_LISTED // 2) for verdict in ("review", "forbidden")
        ),
    )


@tool(effect="idempotent")
async def save_document(
    ctx: RunContext,
    project: Line,
    summary: Text,
    recommendations: Annotated[list[Text], Field(max_length=20)],
    packages: Names | None = None,
) -> SavedDocument:
    """Write the compliance document and save it. The list of packages with verdicts is added by itself.

    Say in ``summary`` what the reader must know, in ``recommendations`` what they should do.
    """
    assessment = await _assessment(ctx, packages)
    body = render(
        assessment,
        project=project,
        python=platform.python_version(),
        date=datetime.now(UTC).date().isoformat(),
        summary=summary,
        recommendations=recommendations,
    )
    row = {
        "execution_id": str(ctx.execution_id),
        "user_id": str(ctx.user_id),
        "idempotency_key": ctx.idempotency_key,
        "project": project,
        "body": body,
    }
    # The same call again, after a crash, finds the row it wrote.
    answer = await (
        ctx.supabase.table("compliance_documents")
        .upsert(row, on_conflict="user_id,idempotency_key")
        .execute()
    )
    saved: Any = answer.data[0]
    return SavedDocument(
        document_id=saved["id"],
        packages=len(assessment.findings),
        allowed=assessment.count("allowed"),
        review=assessment.count("review"),
        forbidden=assessment.count("forbidden"),
        characters=len(body),
    )


@tool(approval=True, timeout=20)
def send_email(ctx: RunContext, to: EmailStr, subject: Line, body: Text) -> str:
    """Send an e-mail. A reviewer sees it first, and may change it."""
    deliver(to=to, subject=subject, body=body, message_id=_message_id(ctx))
    return f"Sent to {to}."


@tool(approval=True, timeout=20)
def submit_to_regulator(ctx: RunContext, authority: EmailStr, document_id: UUID, statement: Text) -> str:
    """Submit a saved document to an authority. It can't be taken back: a reviewer sees it first."""
    deliver(
        to=authority,
        subject=f"Licence compliance document {document_id}",
        body=statement,
        message_id=_message_id(ctx),
    )
    return f"Submitted to {authority}."


agent = Agent(
    type="compliance_document_generator",
    version="1",
    description="Writes a licence-compliance document for the Python environment that the worker runs in.",
    model=os.environ.get("RUNHOLD_MODEL", "gpt-5-mini"),
    instructions=(
        "You write licence-compliance documents for Python environments.\n"
        "1. Read what is installed with list_distributions; pass on `packages` if the request names any.\n"
        "2. Check it with check_policy. Where a licence is unknown, read the licence file of up to three\n"
        "   packages.\n"
        "3. Save the document with save_document. State only what tools told you.\n"
        "4. If the request names a recipient, send them a short e-mail that says what was found and names\n"
        "   the document's id. If it names a regulator, submit the document to them.\n"
        "If a reviewer rejects a call, do not try it again: go on without it and say so in the summary. If\n"
        "they changed its arguments, what they changed them to is what happened.\n"
        "End with the summary of what you did."
    ),
    input_type=ComplianceRequest,
    output_type=ComplianceDocument,
    tools=[
        list_distributions,
        read_licence_file,
        check_policy,
        save_document,
        send_email,
        submit_to_regulator,
    ],
    limits=Limits(max_steps=15, max_tokens=50_000),
)


# ------------------------------------------------------------------------------------------------ details


async def _assessment(ctx: RunContext, packages: list[str] | None) -> Assessment:
    """The environment judged by the policy as the run's user sees it."""
    answer = await ctx.supabase.table("compliance_policies").select("licence, verdict, reason").execute()
    rules = TypeAdapter(list[Rule]).validate_python(answer.data)
    if not rules:
        raise ToolFailed("The table compliance_policies is empty: there is no policy to check against.")
    environment = await asyncio.to_thread(read_environment, packages)
    return assess(environment, rules)


def _note(finding: Finding) -> PackageNote:
    package = finding.package
    return PackageNote(
        package=f"{package.name} {package.version}",
        licence=package.licence or "unknown",
        reason=finding.judgement.reason[:120],
    )


def _message_id(ctx: RunContext) -> str:
    """The same for every attempt of a call: mail systems drop what they have seen."""
    return f"<{hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:32]}@runhold.example>"
