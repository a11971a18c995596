"""A scripted model in process, without HTTP: for unit tests of agents and for benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.ports import JsonObject, ModelReply
from runhold.models.failure import complaint_of, failure_of
from runhold.models.reply import StreamedAnswer, read_completion
from runhold.models.request import encode
from runhold.models.retry import Clock, retry_after_s
from runhold.models.script import (
    Answer,
    Drop,
    Fault,
    Hang,
    HttpError,
    NotJson,
    Player,
    Request,
    Script,
    chunks,
)


class FunctionModel:
    """A :class:`~runhold.loop.ports.ChatModel` that asks a script, whose own errors pass through.

    :ivar requests: what was sent, in order; empty with ``record=False``.
    """

    def __init__(
        self,
        script: Script,
        *,
        latency_s: float = 0.0,
        record: bool = True,
        strict: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """
        :param latency_s: seconds that each answer takes.
        :param record: keep every request; off for benchmarks.
        :param strict: refuse conversations that OpenAI refuses, such as a tool call without its result.
        """
        self.requests: list[Request] = []
        self._player = Player(script, strict=strict)
        self._latency_s = latency_s
        self._record = record
        self._clock = clock or Clock()

    async def complete(
        self, body: JsonObject, *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """Answer as the script says.

        :raises ModelUnavailable: the script says rate limit, server error, not JSON or drop.
        :raises ModelTimeout: the script hangs, or ``latency_s`` is not less than ``timeout_s``.
        :raises ModelRejected: the script says another HTTP error, or the conversation is malformed.
        """
        if self._record:
            self.requests.append(Request(encode(body)))
        outcome = self._player.outcome(body)
        if isinstance(outcome, Hang) or self._latency_s >= timeout_s:
            await self._clock.sleep(timeout_s)
            raise ModelTimeout(f"The model gave no answer within {timeout_s:g} s.")
        await self._clock.sleep(self._latency_s)
        if not isinstance(outcome, Answer):
            raise _error_of(outcome, self._clock)
        completion = self._player.completion(body, outcome)
        if on_text is None:
            return read_completion(completion)
        streamed = StreamedAnswer()
        for chunk in chunks(completion, with_usage=True):
            if text := streamed.add(chunk):
                on_text(text)
        return streamed.finish()


def _error_of(fault: Fault, clock: Clock) -> ModelUnavailable | ModelRejected:
    match fault:
        case HttpError():
            headers = {name.lower(): value for name, value in fault.headers.items()}
            failure = failure_of(
                fault.status, complaint_of(fault.payload()), retry_after_s=retry_after_s(headers, clock)
            )
            if isinstance(failure, ModelRejected):
                return failure
            return ModelUnavailable(f"{failure}.", retry_after_s=failure.retry_after_s)
        case NotJson():
            return ModelUnavailable("The model provider answered with something that is not JSON.")
        case Drop() | Hang():
            return ModelUnavailable("The connection to the model provider broke.")
