"""What a company thinks of licences: the verdict of ``compliance_policies`` on an SPDX expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

Verdict = Literal["allowed", "review", "forbidden"]

_SEVERITY: Final[dict[Verdict, int]] = {"allowed": 0, "review": 1, "forbidden": 2}
_TOKEN: Final = re.compile(r"[()]|[^\s()]+")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A row of ``compliance_policies``. ``licence`` is an identifier or a pattern such as ``GPL-*``."""

    licence: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the policy says of a licence, and why."""

    verdict: Verdict
    reason: str


NO_LICENCE: Final = Judgement(verdict="review", reason="no licence found in the package's metadata or files")


def judge(licence: str | None, rules: Sequence[Rule]) -> Judgement:
    """The verdict on an SPDX expression: of ``OR`` the best alternative counts, of ``AND`` the worst part."""
    if licence is None:
        return NO_LICENCE
    tokens = _TOKEN.findall(licence)
    judgement, rest = _any_of(tokens, rules)
    if rest or judgement is None:
        return Judgement(verdict="review", reason=f"{licence!r} is no licence expression that can be read")
    return judgement


def _any_of(tokens: list[str], rules: Sequence[Rule]) -> tuple[Judgement | None, list[str]]:
    best, rest = _all_of(tokens, rules)
    while rest and rest[0].upper() == "OR":
        other, rest = _all_of(rest[1:], rules)
        if best is None or other is None:
            return None, rest
        best = min(best, other, key=_severity)
    return best, rest


def _all_of(tokens: list[str], rules: Sequence[Rule]) -> tuple[Judgement | None, list[str]]:
    worst, rest = _one(tokens, rules)
    while rest and rest[0].upper() == "AND":
        other, rest = _one(rest[1:], rules)
        if worst is None or other is None:
            return None, rest
        worst = max(worst, other, key=_severity)
    return worst, rest


def _one(tokens: list[str], rules: Sequence[Rule]) -> tuple[Judgement | None, list[str]]:
    if not tokens or tokens[0] == ")" or tokens[0].upper() in ("AND", "OR", "WITH"):
        return None, tokens
    if tokens[0] == "(":
        inner, rest = _any_of(tokens[1:], rules)
        return (inner, rest[1:]) if rest[:1] == [")"] else (None, rest)
    rest = tokens[1:]
    if len(rest) >= 2 and rest[0].upper() == "WITH":
        rest = rest[2:]  # an exception only ever adds permissions: the licence itself is judged
    return _rule_for(tokens[0], rules), rest


def _rule_for(identifier: str, rules: Sequence[Rule]) -> Judgement:
    matching = [rule for rule in rules if fnmatchcase(identifier.lower(), rule.licence.lower())]
    if not matching:
        return Judgement(verdict="review", reason=f"the policy does not mention {identifier}")
    rule = max(matching, key=lambda rule: len(rule.licence))  # the most particular one
    return Judgement(verdict=rule.verdict, reason=f"{identifier}: {rule.reason}")


def _severity(judgement: Judgement) -> int:
    return _SEVERITY[judgement.verdict]
