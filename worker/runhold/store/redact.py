"""Redacted fields are encrypted on their way into the log, and decrypted on their way back.

The loop works with the values themselves; rows hold ``{"$redacted": "v1:…"}`` in their place: a Fernet token under
the workers' own key (``RUNHOLD_REDACT_KEY``). Any worker with the key can go on with the run; nobody else reads them.

A token is bound to the run's user, the tool and the field. One that a reviewer, or a model, puts somewhere else is not
opened there: it stays what it is, a token.

What the model asked for is kept twice in its message: the arguments as people may read them, and under ``$redacted``
the exact text, because the next request must repeat it byte for byte.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeGuard, cast
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from msgspec.structs import replace

from runhold.environment.variables import REDACT_KEY
from runhold.errors import ConfigError, RunholdError
from runhold.loop import RecordedRun
from runhold.loop.canonical import canonical_json, clean_text
from runhold.loop.ports import Entry, Json, JsonObject, Run, RunLog, Step, ToolCall, Verdict
from runhold.loop.redaction import HIDDEN, MARK, Redaction

MAKE_KEY: Final = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'

_VERSION: Final = "v1:"
_TEXT: Final = f"{MARK}:{_VERSION}"
"""How a text begins that is redacted as a whole."""

_ARGUMENTS: Final = "(arguments)"
_SHOWN: Final = "(shown)"
"""Places that are no fields: no field's path has a parenthesis and nothing else."""


def split_keys(text: str) -> list[str]:
    """The keys in the value of the variable: newest first, with spaces or commas between them."""
    return text.replace(",", " ").split()


class RedactKeyMissing(RunholdError):
    """The run holds redacted values under a key that this worker does not have."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a token is bound to."""

    user_id: UUID
    tool_name: str
    path: str


class Vault:
    """Encrypts and decrypts values.

    :param keys: Fernet keys, newest first: the first encrypts, all decrypt.
    :raises ConfigError: one of them is no key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigError(
                f"{REDACT_KEY} holds something that is no key: make one with `{MAKE_KEY}`."
            ) from None

    def seal(self, place: Place, value: Json) -> str:
        """A token for ``value`` at ``place``."""
        said = [str(place.user_id), place.tool_name, place.path, value]
        return _VERSION + self._fernet.encrypt(canonical_json(said).encode()).decode()

    def open(self, place: Place, token: str) -> tuple[Json] | None:
        """The value, in a tuple; None: the token belongs to another place.

        :raises RedactKeyMissing: it was made with another key, or is damaged.
        """
        try:
            text = self._fernet.decrypt(token.removeprefix(_VERSION).encode())
        except (InvalidToken, ValueError):
            raise RedactKeyMissing(
                f"the run holds redacted values that no key in {REDACT_KEY} opens"
            ) from None
        user_id, tool_name, path, value = json.loads(text)
        fits = (user_id, tool_name, path) == (str(place.user_id), place.tool_name, place.path)
        return (value,) if fits else None


class Seal:
    """What becomes of the values of one run at the border of the log.

    :param vault: None: no key, so nothing can be opened. There is nothing to be sealed then.
    """

    def __init__(self, vault: Vault | None, redaction: Redaction, user_id: UUID) -> None:
        self._vault = vault
        self._redaction = redaction
        self._user_id = user_id

    # ------------------------------------------------------------------------------------------ into the log

    def entry(self, entry: Entry, tool_of: Callable[[int, int], str]) -> Entry:
        """``entry`` as it is stored; ``tool_of``: (step number, position) → the name of the tool."""
        return replace(
            entry,
            step=None if entry.step is None else self._sealed_step(entry.step),
            calls=[self._sealed_call(call) for call in entry.calls],
            results=[
                self._sealed_outcome(result, tool_of(result.step_number, result.position))
                for result in entry.results
            ],
        )

    def _sealed_step(self, step: Step) -> Step:
        asked = cast("list[JsonObject]", step.message.get("tool_calls") or [])
        sealed = [{**call, "function": self._sealed_function(call["function"])} for call in asked]
        return replace(step, message={**step.message, "tool_calls": sealed}) if sealed else step

    def _sealed_function(self, function: JsonObject) -> JsonObject:
        name, arguments = clean_text(function["name"]), cast("str", function["arguments"])
        try:
            given: Json = json.loads(arguments)
        except (ValueError, RecursionError):  # nobody can say what is in there
            if not self._redaction.concerns(name):
                return function
            readable = HIDDEN
        else:
            masked = self._redaction.masked(name, given)
            if masked is given:
                return function
            readable = json.dumps(masked, ensure_ascii=False)
        token = self._token(name, _ARGUMENTS, arguments)
        return {**function, "arguments": readable, MARK: token}

    def _sealed_call(self, call: ToolCall) -> ToolCall:
        sealed = self._sealed_outcome(call, call.tool_name)
        return replace(sealed, input=self._sealed_value(call.tool_name, call.input))

    def _sealed_outcome(self, outcome: Any, tool_name: str) -> Any:
        output = self._sealed_value(tool_name, outcome.output)
        shown: str | None = outcome.shown
        if shown is not None and output is not outcome.output:  # a part of what holds such values
            shown = f"{MARK}:{self._token(tool_name, _SHOWN, shown)}"
        return replace(outcome, output=output, shown=shown)

    def _sealed_value(self, tool_name: str, value: Json) -> Json:
        return self._redaction.replaced(
            tool_name, value, lambda path, item: {MARK: self._token(tool_name, path, item)}
        )

    def _token(self, tool_name: str, path: str, value: Json) -> str:
        if self._vault is None:
            raise RedactKeyMissing(f"there are values to be redacted and no {REDACT_KEY}")
        return self._vault.seal(Place(self._user_id, tool_name, path), value)

    # ------------------------------------------------------------------------------------------ out of the log

    def run(self, run: Run) -> Run:
        """A claimed run with its values.

        :raises RedactKeyMissing: there are values that this worker can't open.
        """
        return replace(run, steps=self.steps(run.steps), calls=self.calls(run.calls))

    def steps(self, steps: Iterable[Step]) -> list[Step]:
        """:raises RedactKeyMissing: there are values that can't be opened."""
        return [self._opened_step(step) for step in steps]

    def calls(self, calls: Iterable[ToolCall]) -> list[ToolCall]:
        """:raises RedactKeyMissing: there are values that can't be opened, in what no person wrote."""
        return [self._opened_call(call) for call in calls]

    def verdict(self, verdict: Verdict, tool_of: Callable[[int, int], str]) -> Verdict:
        """A verdict with the values; what can't be opened is left as it is: somebody wrote it."""
        if not verdict.calls and not verdict.started:
            return verdict
        return replace(
            verdict,
            calls=[self._opened_call(call, lenient=True) for call in verdict.calls],
            started=[
                replace(
                    answer,
                    input=self._opened(
                        answer.input, tool_of(answer.step_number, answer.position), (), lenient=True
                    ),
                )
                for answer in verdict.started
            ],
        )

    def _opened_step(self, step: Step) -> Step:
        asked = cast("list[JsonObject]", step.message.get("tool_calls") or [])
        if not any(MARK in call["function"] for call in asked):
            return step
        opened = [{**call, "function": self._opened_function(call["function"])} for call in asked]
        return replace(step, message={**step.message, "tool_calls": opened})

    def _opened_function(self, function: JsonObject) -> JsonObject:
        token = function.get(MARK)
        if not _is_token(token):
            return function
        arguments = self._value(clean_text(function["name"]), _ARGUMENTS, token, lenient=False)
        if arguments is None:
            return function
        return {key: item for key, item in function.items() if key != MARK} | {"arguments": arguments[0]}

    def _opened_call(self, call: ToolCall, *, lenient: bool = False) -> ToolCall:
        tool_name, shown = call.tool_name, call.shown
        if shown is not None and shown.startswith(_TEXT):
            opened = self._value(tool_name, _SHOWN, shown.removeprefix(f"{MARK}:"), lenient=lenient)
            shown = shown if opened is None else cast("str", opened[0])
        return replace(
            call,
            # a reviewer may have typed anything into the arguments
            input=self._opened(call.input, tool_name, (), lenient=lenient or call.edited),
            output=self._opened(call.output, tool_name, (), lenient=lenient),
            shown=shown,
        )

    def _opened(self, value: Json, tool_name: str, at: tuple[str, ...], *, lenient: bool) -> Json:
        if isinstance(value, dict):
            given = cast("JsonObject", value)
            if given.keys() == {MARK} and _is_token(given[MARK]):
                opened = self._value(tool_name, ".".join(at), given[MARK], lenient=lenient)
                return given if opened is None else opened[0]
            return {
                key: self._opened(item, tool_name, (*at, key), lenient=lenient) for key, item in given.items()
            }
        if isinstance(value, list):
            items = cast("list[Json]", value)
            return [self._opened(item, tool_name, at, lenient=lenient) for item in items]
        return value

    def _value(self, tool_name: str, path: str, token: str, *, lenient: bool) -> tuple[Json] | None:
        try:
            if self._vault is None:
                raise RedactKeyMissing(f"the run holds redacted values, and this worker has no {REDACT_KEY}")
            return self._vault.open(Place(self._user_id, tool_name, path), token)
        except RedactKeyMissing:
            if lenient:
                return None
            raise


class SealedLog:
    """A :class:`RunLog` that seals what goes in and opens what comes back."""

    def __init__(self, log: RunLog, seal: Seal, calls: Iterable[ToolCall]) -> None:
        self._log = log
        self._seal = seal
        self._tools = {(call.step_number, call.position): call.tool_name for call in calls}

    def append(self, entry: Entry) -> asyncio.Future[Verdict]:
        """Queue ``entry`` and return at once; see ``RunLog.append``."""
        self._tools.update({(call.step_number, call.position): call.tool_name for call in entry.calls})
        answered = asyncio.ensure_future(self._log.append(self._seal.entry(entry, self._tool_of)))
        opened: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        answered.add_done_callback(partial(self._answer, opened))
        return opened

    def _answer(self, opened: asyncio.Future[Verdict], answered: asyncio.Future[Verdict]) -> None:
        if opened.done():
            return
        if answered.cancelled():
            opened.cancel()
            return
        error = answered.exception()
        if error is not None:
            opened.set_exception(error)
            opened.exception()  # an answer need not be awaited: keeps "never retrieved" out of the log
        else:
            opened.set_result(self._seal.verdict(answered.result(), self._tool_of))

    def _tool_of(self, step_number: int, position: int) -> str:
        return self._tools.get((step_number, position), "")


def open_recorded(run: RecordedRun, user_id: UUID, vault: Vault | None) -> RecordedRun:
    """A run's rows with the values.

    :raises RedactKeyMissing: there are values that ``vault`` can't open.
    """
    seal = Seal(vault, Redaction({}), user_id)
    return replace(run, steps=seal.steps(run.steps), calls=seal.calls(run.calls))


def _is_token(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(_VERSION)
