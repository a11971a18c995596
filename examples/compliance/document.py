"""The document: facts from the environment and the policy, framed by what the model says about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .environment import Environment, Package
from .policy import Judgement, Rule, Verdict, judge


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A package and what the policy says of its licence."""

    package: Package
    judgement: Judgement


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The whole environment, judged."""

    environment: Environment
    findings: list[Finding]

    def count(self, verdict: Verdict) -> int:
        return sum(finding.judgement.verdict == verdict for finding in self.findings)

    def of(self, verdict: Verdict) -> list[Finding]:
        return [finding for finding in self.findings if finding.judgement.verdict == verdict]

    def by_licence(self) -> list[tuple[str, int]]:
        return Counter(finding.package.licence or "unknown" for finding in self.findings).most_common()


def assess(environment: Environment, rules: Sequence[Rule]) -> Assessment:
    """Judge every package."""
    return Assessment(
        environment=environment,
        findings=[
            Finding(package=package, judgement=judge(package.licence, rules))
            for package in environment.packages
        ],
    )


def render(
    assessment: Assessment,
    *,
    project: str,
    python: str,
    date: str,
    summary: str,
    recommendations: Sequence[str],
) -> str:
    """The document as Markdown."""
    total = len(assessment.findings)
    lines = [
        f"# Licence compliance of {project}",
        "",
        f"{total} Python packages, read from their own metadata on {date} (Python {python}): "
        f"{assessment.count('allowed')} allowed, {assessment.count('review')} to review, "
        f"{assessment.count('forbidden')} forbidden.",
        "",
        "## Summary",
        "",
        summary.strip(),
        "",
    ]
    if recommendations:
        lines += ["## Recommendations", "", *(f"- {text.strip()}" for text in recommendations), ""]
    for title, found in (("Forbidden", assessment.of("forbidden")), ("To review", assessment.of("review"))):
        if found:
            lines += [f"## {title}", "", *(_reasoned(finding) for finding in found), ""]
    lines += _oddities(assessment.environment)
    lines += [
        "## All packages",
        "",
        "| package | version | licence | found in | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_row(finding) for finding in assessment.findings]
    return "\n".join(lines) + "\n"


def _row(finding: Finding) -> str:
    package = finding.package
    licence = package.licence or package.said or "unknown"
    cells = (package.name, package.version, licence, package.source, finding.judgement.verdict)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _reasoned(finding: Finding) -> str:
    said = f" (it says: {finding.package.said})" if finding.package.said else ""
    return f"- **{finding.package.name} {finding.package.version}**: {finding.judgement.reason}{said}"


def _oddities(environment: Environment) -> list[str]:
    found = [
        ("Installed more than once (the first on the path was read)", environment.duplicates),
        ("Without readable metadata", environment.unreadable),
        ("Asked for but not installed", environment.missing),
    ]
    lines = [f"- {what}: {', '.join(names)}." for what, names in found if names]
    return ["## Oddities", "", *lines, ""] if lines else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
