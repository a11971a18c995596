"""Cuts an SQL file into its statements and runs them, so that an error can name the file and the line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from runhold.local.errors import MigrationFailed

# What may hide a semicolon: comments, strings, quoted names, dollar-quoted bodies; and the words that open and close
# a SQL-standard function body. Tried in this order at every position.
TOKEN = re.compile(
    r"""
      (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<escape_string>[eE]'(?:[^'\\]|''|\\.)*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*")
    | (?P<dollar>\$(?:[A-Za-z_\x80-\uffff][A-Za-z0-9_\x80-\uffff]*)?\$)
    | (?P<word>[A-Za-z_\x80-\uffff][A-Za-z0-9_$\x80-\uffff]*)
    | (?P<end>;)
    | (?P<space>\s+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Statement:
    """One statement without its semicolon, comments before it included.

    Lines count from 1 in the file: `line` of the statement's first word, `text_line` of the text's first character.
    """

    text: str
    line: int
    text_line: int


def split(text: str) -> Iterator[Statement]:
    """Cut SQL text at the semicolons that end statements. Comments before a statement stay with it.

    Knows strings, quoted names, nested comments, dollar quotes and `begin atomic … end` bodies.
    """
    start = 0
    first_word: int | None = None
    depth = 0
    previous = ""
    position = 0
    while position < len(text):
        token = TOKEN.match(text, position)
        kind = token.lastgroup if token else None
        if kind == "end" and depth == 0:
            if first_word is not None:
                yield _statement(text, start, position, first_word)
            start = position + 1
            first_word = None
        elif kind not in ("line_comment", "block_comment", "space") and first_word is None:
            first_word = position
        if kind == "word" and token is not None:
            word = token.group().lower()
            if word == "atomic" and previous == "begin":
                depth = 1
            elif depth and word == "case":
                depth += 1
            elif depth and word == "end":
                depth -= 1
            previous = word
        elif kind not in ("space", "line_comment", "block_comment"):
            previous = ""
        if kind == "block_comment":
            position = _after_block_comment(text, position)
        elif kind == "dollar" and token is not None:
            closing = text.find(token.group(), token.end())
            position = len(text) if closing < 0 else closing + len(token.group())
        else:
            position = token.end() if token else position + 1
    if first_word is not None:
        yield _statement(text, start, len(text), first_word)


def _statement(text: str, start: int, end: int, first_word: int) -> Statement:
    raw = text[start:end]
    first_character = start + len(raw) - len(raw.lstrip())
    return Statement(
        raw.strip(),
        line=text.count("\n", 0, first_word) + 1,
        text_line=text.count("\n", 0, first_character) + 1,
    )


def _after_block_comment(text: str, position: int) -> int:
    """Block comments nest in PostgreSQL."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


async def run_file(connection: psycopg.AsyncConnection, path: Path, text: str) -> list[str]:
    """Run a file's statements in the open transaction; answers them. Raises MigrationFailed."""
    statements = list(split(text))
    for statement in statements:
        try:
            await connection.execute(statement.text.encode())
        except psycopg.OperationalError as error:
            if error.diag.sqlstate is None:
                raise MigrationFailed(
                    f"{path.name}: the connection to PostgreSQL was lost ({error})."
                ) from error
            raise refused(path, statement, error) from error
        except psycopg.Error as error:
            raise refused(path, statement, error) from error
    return [statement.text for statement in statements]


def refused(path: Path, statement: Statement, error: psycopg.Error) -> MigrationFailed:
    """One sentence: which file and line, what PostgreSQL says, and its detail and hint."""
    line = statement.line
    diagnosis = error.diag
    if diagnosis.statement_position is not None:
        before = statement.text[: int(diagnosis.statement_position) - 1]
        line = statement.text_line + before.count("\n")
    parts = [f"{path.name}, line {line}: {diagnosis.message_primary or error}"]
    if diagnosis.sqlstate:
        parts[0] += f" ({diagnosis.sqlstate})"
    parts += [text for text in (diagnosis.message_detail, diagnosis.message_hint) if text]
    if diagnosis.context and diagnosis.statement_position is None:
        parts.append(diagnosis.context.splitlines()[0])
    return MigrationFailed(
        ". ".join(part.rstrip(".") for part in parts) + f". Nothing of {path.name} was applied."
    )
