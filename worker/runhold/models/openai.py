"""The model client: OpenAI's chat completions through the ``openai`` package, for all that speak them.

The package does addresses, headers, authentication and server-sent events. The request's bytes, the time and
the retries are ours: bytes must be a function of the body alone, and no wait may pass the step's deadline.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, cast

import httpx
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, AsyncStream

from runhold.environment.variables import MODEL_ACCOUNT, MODEL_HEADERS, MODEL_KEY, MODEL_URL, require
from runhold.errors import ConfigError, ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.ports import JsonObject, ModelReply
from runhold.models.failure import Transient, complaint_in, complaint_of, failure_of
from runhold.models.lanes import Lanes
from runhold.models.reply import ErrorInAnswer, StreamedAnswer, UnusableAnswer, read_completion
from runhold.models.request import encode
from runhold.models.retry import Clock, retry_after_s, wait_s

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
PATH: Final = "/chat/completions"

MAX_USELESS_ANSWERS: Final = 3
"""So many answers of no use (not JSON, cut streams) end the call: each was generated, and is billed."""

_NO_KEY: Final = f"Set {MODEL_KEY} (any value, if the server at {MODEL_URL} needs no key)."

_log = logging.getLogger(__name__)


class OpenAIChatModel:
    """A :class:`~runhold.loop.ports.ChatModel` over HTTP. One per process: it holds the connection pool."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        clock: Clock | None = None,
    ) -> None:
        """
        :param api_key: sent as bearer token; servers without keys accept any.
        :param base_url: up to and without ``/chat/completions``.
        :raises ConfigError: the key can't be sent, or the URL is none.
        """
        if not api_key:
            raise ConfigError(_NO_KEY)
        # httpx would quote the whole key in its complaint about an illegal header.
        require({MODEL_KEY: api_key, MODEL_URL: base_url}, MODEL_KEY, MODEL_URL)
        self.base_url = base_url
        self._host = _host_of(base_url)
        self._api_key = api_key
        self._clock = clock or Clock()
        self._lanes = Lanes(lambda http: _client(api_key, base_url, http), base_url)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> OpenAIChatModel:
        """Build one from ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL`` (optional).

        :raises ConfigError: the key is missing or either is malformed.
        """
        env = os.environ if environ is None else environ
        api_key = env.get(MODEL_KEY, "").strip()
        if not api_key:
            raise ConfigError(_NO_KEY)
        require(env, *MODEL_ACCOUNT, MODEL_HEADERS)  # the package reads them by itself
        return cls(api_key=api_key, base_url=env.get(MODEL_URL, "").strip() or DEFAULT_BASE_URL)

    async def aclose(self) -> None:
        """Close all connections. Calls in flight fail."""
        await self._lanes.aclose()

    async def complete(
        self, body: JsonObject, *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """Send ``body`` and return the answer within ``timeout_s`` seconds, retries and waits included.

        With ``on_text`` the answer is streamed. After a stream that broke midway, ``on_text`` hears the new
        answer from its start: the pieces are for showing progress, the reply alone counts.

        :raises ModelUnavailable: outage or rate limit that lasts, or a wait that would end too late.
        :raises ModelTimeout: the first attempt got no answer in time.
        :raises ModelRejected: the provider refuses the request for good.
        """
        content = encode(body, stream=on_text is not None)
        failures: list[Transient] = []
        scope = self._clock.timeout(timeout_s)
        try:
            async with scope:
                return await self._until_answered(content, on_text, timeout_s, failures)
        except TimeoutError as error:
            if not scope.expired():
                raise
            if failures:
                # Failures, not the model, used the time up: an outage, not to be held against the run.
                raise _unavailable(failures) from error
            raise ModelTimeout(f"The model gave no answer within {timeout_s:g} s.") from error

    async def _until_answered(
        self,
        content: bytes,
        on_text: Callable[[str], None] | None,
        timeout_s: float,
        failures: list[Transient],
    ) -> ModelReply:
        """Try until an answer comes, no wait would end in time, or too many answers were of no use."""
        clock = self._clock
        deadline = clock.monotonic() + timeout_s
        while True:
            try:
                return await self._attempt(content, on_text)
            except Exception as error:
                failure = self._failure(error)
                if failure is None:
                    raise
                if isinstance(failure, ModelRejected):
                    raise failure from error
                failure.__cause__ = error
            failures.append(failure)
            if sum(failure.spent for failure in failures) >= MAX_USELESS_ANSWERS:
                raise _unavailable(failures) from failure
            wait = wait_s(len(failures), failure.retry_after_s, clock)
            if clock.monotonic() + wait >= deadline:
                raise _unavailable(failures) from failure
            _log.info("model call failed, next attempt in %.2f s: %s", wait, failure)
            await clock.sleep(wait)

    async def _attempt(self, content: bytes, on_text: Callable[[str], None] | None) -> ModelReply:
        async with self._lanes.client() as client:
            if on_text is not None:
                return await _stream(client, content, on_text)
            return read_completion(_json(await client.post(PATH, cast_to=httpx.Response, content=content)))

    def _failure(self, error: Exception) -> Transient | ModelRejected | None:
        """What ``error`` of an attempt means; None if it is none of the provider's."""
        match error:
            case APIStatusError():
                headers = cast("Mapping[str, str]", error.response.headers)
                complaint = complaint_in(error.response.text, secret=self._api_key)
                return failure_of(
                    error.status_code, complaint, retry_after_s=retry_after_s(headers, self._clock)
                )
            case APIConnectionError():
                return Transient(f"The connection to {self._host} failed ({_reason(error)})")
            case httpx.RequestError():  # while reading a streamed response in one piece
                return Transient(f"The connection to {self._host} failed ({type(error).__name__})")
            case ErrorInAnswer():
                return failure_of(None, complaint_of(error.payload, secret=self._api_key))
            case APIError():  # an error event inside a stream; the body is the inner object
                return failure_of(None, complaint_of(error.body or error.message, secret=self._api_key))
            case RecursionError():
                return Transient("The model provider answered with JSON nested without end", spent=True)
            case UnusableAnswer():
                return Transient(f"The model provider answered with {error}", spent=True)
            case _:
                return None


async def _stream(client: AsyncOpenAI, content: bytes, on_text: Callable[[str], None]) -> ModelReply:
    opened = await client.post(
        PATH, cast_to=httpx.Response, content=content, stream=True, stream_cls=AsyncStream[object]
    )
    # Asked for a raw response, the package hands out one whose body is still to be read.
    async with aclosing(cast("httpx.Response", opened)) as response:
        if "json" in response.headers.get("content-type", ""):
            # A server that knows no streaming answers in one piece.
            await response.aread()
            reply = read_completion(_json(response))
            if text := reply.message["content"]:
                on_text(text)
            return reply
        answer = StreamedAnswer()
        events = AsyncStream[object](cast_to=object, response=cast("Any", response), client=client)
        async with aclosing(_chunks(events)) as chunks:
            async for chunk in chunks:
                if text := answer.add(chunk):
                    on_text(text)
        return answer.finish()


async def _chunks(events: AsyncStream[object]) -> AsyncGenerator[object]:
    # A generator, so that only the stream's own errors are read as such, not those of who listens.
    try:
        async for chunk in events:
            yield chunk
    except ValueError as error:
        raise UnusableAnswer("a stream that is not JSON") from error
    except APIConnectionError as error:
        raise UnusableAnswer(f"a stream that broke ({_reason(error)})") from error


def _client(api_key: str, base_url: str, http: httpx.AsyncClient) -> AsyncOpenAI:
    # The package's own type is httpx2's client; it takes httpx's too (openai/_httpx2.py).
    return AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, http_client=cast("Any", http))


def _json(response: httpx.Response) -> object:
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise UnusableAnswer(f"{len(response.content)} bytes that are not JSON") from error


def _unavailable(failures: list[Transient]) -> ModelUnavailable:
    last = failures[-1]
    attempts = "1 attempt" if len(failures) == 1 else f"{len(failures)} attempts"
    return ModelUnavailable(f"{last} (after {attempts}).", retry_after_s=last.retry_after_s)


def _reason(error: APIConnectionError) -> str:
    """The transport's own words, such as *ConnectError: All connection attempts failed*."""
    cause = error.__cause__
    if cause is None:
        return error.message
    return f"{type(cause).__name__}: {cause}".rstrip(": ")


def _host_of(base_url: str) -> str:
    """Host and port, to be named in messages: the rest of a URL may hold secrets."""
    return httpx.URL(base_url).netloc.decode("ascii")
