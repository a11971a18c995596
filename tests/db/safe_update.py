"""Finds what pg-safeupdate refuses: an UPDATE or DELETE without WHERE, wherever it stands in SQL or PL/pgSQL.

Hosted Supabase loads that extension into every session of the API, where it also sees the statements in functions.
The parser is PostgreSQL's own (``pglast``). Dynamic SQL can't be read: each of its expressions needs an entry in a list
of the texts that it may execute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pglast import parse_plpgsql, parse_sql
from pglast.ast import Node
from pglast.stream import RawStream
from pglast.visitors import Visitor

Dynamic = Mapping[tuple[str, str], Sequence[str]]
"""(where, the expression after ``execute``) → every text that it may execute, with ``%I`` and ``%L`` of ``format``."""

_DYNAMIC = {
    "PLpgSQL_stmt_dynexecute": "query",
    "PLpgSQL_stmt_dynfors": "query",
    "PLpgSQL_stmt_open": "dynquery",
    "PLpgSQL_stmt_return_query": "dynquery",
}
"""The statements of PL/pgSQL that execute a text, and where its expression stands."""

_STATEMENT, _EXPRESSION = 0, 2
"""How PL/pgSQL parses a text of its own; every greater number is an assignment."""


class _Unconditional(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Node] = []
        self.do_blocks: list[str] = []

    def visit_UpdateStmt(self, _: Any, node: Any) -> None:  # noqa: N802 - the parser's name
        if node.whereClause is None:
            self.found.append(node)

    visit_DeleteStmt = visit_UpdateStmt  # noqa: N815 - the parser's name

    def visit_DoStmt(self, _: Any, node: Any) -> None:  # noqa: N802 - the parser's name
        self.do_blocks += [arg.arg.sval for arg in node.args if arg.defname == "as"]


def in_sql(where: str, sql: str, allowed: Dynamic) -> list[str]:
    """Return one line per offence in these statements, ``do`` blocks and SQL-standard bodies included.

    Bodies in quotes of functions that the statements create are not read: they are in the catalog.
    """
    visitor = _Unconditional()
    visitor(parse_sql(sql))
    found = [f"{where}: {RawStream()(node)}" for node in visitor.found]
    for body in visitor.do_blocks:
        tag = "$of_the_block$"
        block = f"create function block() returns void language plpgsql as {tag}{body}{tag}"
        found += in_plpgsql(where, block, {}, allowed)
    return found


def in_plpgsql(where: str, definition: str, types: Mapping[str, str], allowed: Dynamic) -> list[str]:
    """Return one line per offence in the body of one ``create function … language plpgsql``.

    :param types: types that the parser would have to look up → a type that it knows.
    """
    if types:
        names = "|".join(re.escape(name) for name in sorted(types, key=len, reverse=True))
        pattern = rf"(?<![\w.])({names})(?![\w.])"
        definition = re.sub(pattern, lambda found: types[found.group()], definition)
    found: list[str] = []
    for kind, node in _nodes(parse_plpgsql(definition)):
        dynamic = node.get(_DYNAMIC.get(kind, ""))
        if dynamic is not None:
            expression = dynamic["PLpgSQL_expr"]["query"]
            if (where, expression) not in allowed:
                found.append(f"{where}: executes a text that can't be read: {expression}")
            for text in allowed.get((where, expression), ()):
                if text not in definition:
                    found.append(f"{where}: does not contain the text that is allowed there: {text}")
                found += in_sql(where, text.replace("%I", "x").replace("%L", "'x'"), {})
        if kind == "PLpgSQL_expr":
            found += in_sql(where, _statement(node["query"], node.get("parseMode", _STATEMENT)), {})
    return found


def _statement(text: str, mode: int) -> str:
    if mode == _STATEMENT:
        return text
    if mode > _EXPRESSION:
        text = re.split(":?=", text, maxsplit=1)[1]
    return f"select {text}"


def _nodes(tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a PL/pgSQL tree, with its kind."""
    if isinstance(tree, list):
        for one in tree:
            yield from _nodes(one)
    elif isinstance(tree, dict):
        for kind, node in tree.items():
            if isinstance(node, dict):
                yield kind, node
            yield from _nodes(node)
