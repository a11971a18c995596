"""OpenAI's chat completions over HTTP, answered by a script. A module of its own: it alone needs aiohttp."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from runhold.loop.ports import JsonObject
from runhold.models.script import Answer, Drop, Hang, HttpError, NotJson, Outcome, Player, chunks

MAX_REQUEST_BYTES = 64 * 1024 * 1024

_log = logging.getLogger(__name__)


def scripted_app(player: Player, *, latency_s: float, on_request: Callable[[bytes], None]) -> web.Application:
    """The server's routes.

    :param latency_s: seconds that each answer takes; a streamed one comes in even steps.
    :param on_request: is given every request's body.
    """
    handler = _Handler(player, latency_s, on_request)
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_post("/v1/chat/completions", handler.complete)
    app.router.add_get("/v1/models", handler.models)
    return app


class _Handler:
    def __init__(self, player: Player, latency_s: float, on_request: Callable[[bytes], None]) -> None:
        self._player = player
        self._latency_s = latency_s
        self._on_request = on_request

    async def models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0}]}
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body: Any = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _error(HttpError(status=400, message="The request's body is not a JSON object."))
        self._on_request(raw)
        body = cast("JsonObject", body)
        outcome = self._outcome(body)
        streams = bool(body.get("stream"))
        if not (streams and isinstance(outcome, Answer)):
            await asyncio.sleep(self._latency_s)
        match outcome:
            case HttpError():
                return _error(outcome)
            case Hang():
                await asyncio.Event().wait()  # until the client leaves or the server closes
                raise AssertionError("nobody sets this event")
            case NotJson():
                return web.Response(text="<html>A proxy's page</html>", content_type="text/html")
            case Drop() if streams:
                return await self._stream(request, body, outcome.answer, cut=True)
            case Answer() if streams:
                return await self._stream(request, body, outcome, cut=False)
            case Drop():
                return await _half(request, _bytes(self._player.completion(body, outcome.answer)))
            case Answer():
                return web.Response(
                    body=_bytes(self._player.completion(body, outcome)), content_type="application/json"
                )

    def _outcome(self, body: JsonObject) -> Outcome:
        try:
            return self._player.outcome(body)
        except Exception as error:
            # 400 and not 500: the client would try a 500 again and hide the mistake behind an outage.
            _log.exception("the script of the model failed")
            return HttpError(status=400, code="script_error", message=f"{type(error).__name__}: {error}")

    async def _stream(
        self, request: web.Request, body: JsonObject, answer: Answer, *, cut: bool
    ) -> web.StreamResponse:
        options = cast("JsonObject", body.get("stream_options") or {})
        completion = self._player.completion(body, answer)
        pieces = list(chunks(completion, with_usage=bool(options.get("include_usage"))))
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        pause_s = self._latency_s / len(pieces)
        for number, piece in enumerate(pieces):
            if cut and number >= len(pieces) // 2:
                return _cut_off(request, response)
            if pause_s:
                await asyncio.sleep(pause_s)
            await response.write(b"data: " + _bytes(piece) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


async def _half(request: web.Request, content: bytes) -> web.StreamResponse:
    """Announce ``content``, send half of it and cut the connection."""
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(content))}
    )
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    return _cut_off(request, response)


def _cut_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()  # sends what is written, and then the end
    return response


def _error(error: HttpError) -> web.Response:
    return web.Response(
        status=error.status,
        body=_bytes(error.payload()),
        headers=error.headers,
        content_type="application/json",
    )


def _bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
