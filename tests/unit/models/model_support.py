"""What the tests of models share: a clock that tests move, a provider's answers, a client for each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from runhold.models.openai import OpenAIChatModel
from runhold.models.retry import Clock

KEY = "sk-secret-of-the-test"
BASE_URL = "http://model.test/v1"
URL = f"{BASE_URL}/chat/completions"
BODY: dict[str, Any] = {"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}]}


class FakeTime:
    """Time that passes only by sleeping: no call is ever ended by real time, however slow the machine.

    ``chance`` is what the jitter draws; ``scope`` is ended by the test that passes it.
    """

    def __init__(
        self, *, chance: float = 0.0, wall: float = 0.0, scope: asyncio.Timeout | None = None
    ) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        self.clock = Clock(
            monotonic=lambda: self.now,
            wall=lambda: wall,
            sleep=self._sleep,
            random=lambda: chance,
            timeout=lambda _: scope or asyncio.timeout(None),
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(time: FakeTime | None = None, base_url: str = BASE_URL) -> OpenAIChatModel:
    return OpenAIChatModel(api_key=KEY, base_url=base_url, clock=(time or FakeTime()).clock)


def completion(
    message: Any = None, *, finish_reason: str | None = "stop", usage: Any = None
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"} if message is None else message,
                "finish_reason": finish_reason,
            }
        ],
    }
    if usage is not None:
        answer["usage"] = usage
    return answer


def chunk(delta: Any = None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}], **more}


def sse(*chunks: Any, done: bool = True) -> bytes:
    events = [json.dumps(one) for one in chunks] + (["[DONE]"] if done else [])
    return "".join(f"data: {event}\n\n" for event in events).encode()
