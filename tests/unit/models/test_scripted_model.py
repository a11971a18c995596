"""The scripted server over HTTP on loopback, asked by the real client; the same scripts in process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from model_support import BODY, FakeTime, client
from pydantic import BaseModel

from runhold.errors import ConfigError, ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.ports import ChatModel, JsonObject, ModelReply
from runhold.models.retry import Clock
from runhold.models.scripted import load_script
from runhold.testing import FunctionModel, ScriptedModel, Usage, call, calls, fault, in_order, say

TIMEOUT_S = 30.0


def always(outcome: Any) -> Callable[..., Any]:
    return lambda messages, tools: outcome


@asynccontextmanager
async def served(script: Any, time: FakeTime | None = None, **options: Any) -> AsyncIterator[Any]:
    """(ask, server): the real client in front of a scripted server."""
    async with ScriptedModel(script, **options) as server:
        model = client(time, server.base_url)

        async def ask(body: JsonObject = BODY, **more: Any) -> ModelReply:
            return await model.complete(body, timeout_s=TIMEOUT_S, **more)

        try:
            yield ask, server
        finally:
            await model.aclose()


@pytest.fixture(params=["http", "in process"])
def with_model(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """A script in front of either of its hosts."""

    @asynccontextmanager
    async def http(script: Any) -> AsyncIterator[tuple[ChatModel, Any]]:
        async with ScriptedModel(script) as server:
            model = client(base_url=server.base_url)
            yield model, server
            await model.aclose()

    @asynccontextmanager
    async def in_process(script: Any) -> AsyncIterator[tuple[ChatModel, Any]]:
        model = FunctionModel(script)
        yield model, model

    return http if request.param == "http" else in_process


class Invoice(BaseModel):
    total: float


def result(call_id: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": "1"}


class TestBothHosts:
    """What a script says is the same over HTTP and in process, whole and streamed."""

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize(
        ("answer", "message", "finish_reason"),
        [
            (
                say("hello é 😀, long enough for pieces"),
                {"content": "hello é 😀, long enough for pieces"},
                "stop",
            ),
            (say({"a": [1, "é"]}), {"content": '{"a": [1, "é"]}'}, "stop"),
            (say(Invoice(total=2.5)), {"content": '{"total":2.5}'}, "stop"),
            (say(""), {"content": ""}, "stop"),
            (
                call("find", {"q": "é" * 40}),
                {
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_0_0",
                            "type": "function",
                            "function": {"name": "find", "arguments": '{"q": "' + "é" * 40 + '"}'},
                        }
                    ],
                },
                "tool_calls",
            ),
            (
                calls(call("a"), call("b", '{"x":1}', id="mine"), text="both"),
                {
                    "content": "both",
                    "tool_calls": [
                        {"id": "call_0_0", "type": "function", "function": {"name": "a", "arguments": "{}"}},
                        {"id": "mine", "type": "function", "function": {"name": "b", "arguments": '{"x":1}'}},
                    ],
                },
                "tool_calls",
            ),
            (
                fault.broken_arguments("find"),
                {
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_0_0",
                            "type": "function",
                            "function": {"name": "find", "arguments": '{"broken": '},
                        }
                    ],
                },
                "tool_calls",
            ),
            (fault.refuse("I won't."), {"content": None, "refusal": "I won't."}, "stop"),
            (fault.cut("half a sen"), {"content": "half a sen"}, "length"),
            (fault.filtered(), {"content": None}, "content_filter"),
        ],
    )
    async def test_answers(
        self, with_model: Any, answer: Any, message: JsonObject, finish_reason: str, streamed: bool
    ) -> None:
        heard: list[str] = []
        async with with_model(always(answer)) as (model, _):
            on_text = heard.append if streamed else None
            reply = await model.complete(BODY, timeout_s=TIMEOUT_S, on_text=on_text)
        assert reply.message == {"role": "assistant", **message}
        assert reply.finish_reason == finish_reason
        assert reply.usage is not None
        assert reply.usage.input_tokens > 0
        if streamed:
            assert "".join(heard) == (message["content"] or "")
            assert len(heard) > 1 or len(message["content"] or "") <= 16

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_usage_is_counted_given_or_missing(self, with_model: Any, streamed: bool) -> None:
        given = Usage(input_tokens=120, output_tokens=30, cached_tokens=100)
        script = in_order(say("a", usage=given), fault.no_usage(say("a")), say("a"), say("a"))
        messages: list[JsonObject] = [{"role": "user", "content": "hi"}]
        seen: list[Usage | None] = []
        async with with_model(script) as (model, _):
            for _turn in range(4):
                reply = await model.complete(
                    {"model": "m", "messages": messages},
                    timeout_s=TIMEOUT_S,
                    on_text=(lambda _: None) if streamed else None,
                )
                seen.append(reply.usage)
                messages += [reply.message, {"role": "user", "content": "x" * 400}]
        assert seen[:2] == [given, None]
        assert seen[2] is not None
        assert seen[3] is not None
        assert seen[3].input_tokens - seen[2].input_tokens > 100, "400 bytes more are 100 tokens more"
        assert seen[3].output_tokens == seen[2].output_tokens, "the same answer counts the same"

    async def test_the_script_gets_messages_and_tools_as_sent(self, with_model: Any) -> None:
        got: list[Any] = []

        def script(messages: Any, tools: Any) -> Any:
            got.extend([messages, tools])
            return say("x")

        tools = [{"type": "function", "function": {"name": "t", "parameters": {}}}]
        async with with_model(script) as (model, host):
            await model.complete({**BODY, "tools": tools}, timeout_s=TIMEOUT_S)
            await model.complete(BODY, timeout_s=TIMEOUT_S)
        assert got == [BODY["messages"], tools, BODY["messages"], []]
        assert [request.body for request in host.requests] == [{**BODY, "tools": tools}, BODY]
        assert [request.conversation for request in host.requests] == ["hi", "hi"]

    async def test_in_order_counts_the_models_own_messages(self, with_model: Any) -> None:
        script = in_order(call("a"), say("done"))
        async with with_model(script) as (model, _):
            first = await model.complete(BODY, timeout_s=TIMEOUT_S)
            again = await model.complete(BODY, timeout_s=TIMEOUT_S)
            messages = [*BODY["messages"], first.message, result("call_0_0")]
            then = await model.complete({**BODY, "messages": messages}, timeout_s=TIMEOUT_S)
        assert first == again
        assert then.message["content"] == "done"

    @pytest.mark.parametrize(
        ("messages", "complaint"),
        [
            ([], "no messages"),
            ([{"role": "user", "content": None}], "has no content"),
            ([{"role": "robot", "content": "x"}], "unknown role 'robot'"),
            ([{"role": "user", "content": "x"}, {"role": "assistant", "content": None}], "is empty"),
            ([{"role": "tool", "tool_call_id": "a", "content": "x"}], "which is not open"),
            (
                [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}],
                "KeyError|is no tool's name|a",
            ),
        ],
    )
    async def test_refuses_what_openai_refuses(
        self, with_model: Any, messages: list[JsonObject], complaint: str
    ) -> None:
        async with with_model(always(say("x"))) as (model, _):
            with pytest.raises((ModelRejected, KeyError), match=complaint):
                await model.complete({"model": "m", "messages": messages}, timeout_s=TIMEOUT_S)

    @pytest.mark.parametrize(
        ("after", "complaint"),
        [
            ([], "have no answers"),
            ([result("a")], "have no answers"),
            ([result("a"), result("a")], "'a', which is not open"),
            ([result("a"), {"role": "user", "content": "x"}], "before the tool calls"),
            ([result("a"), result("b")], None),
            ([result("b"), result("a"), {"role": "user", "content": "x"}], None),
        ],
    )
    async def test_every_tool_call_needs_one_answer(
        self, with_model: Any, after: list[JsonObject], complaint: str | None
    ) -> None:
        asked = [
            {"id": one, "type": "function", "function": {"name": "t", "arguments": "{}"}} for one in "ab"
        ]
        messages = [*BODY["messages"], {"role": "assistant", "content": None, "tool_calls": asked}, *after]
        async with with_model(always(say("x"))) as (model, _):
            if complaint is None:
                await model.complete({**BODY, "messages": messages}, timeout_s=TIMEOUT_S)
                return
            with pytest.raises(ModelRejected, match=complaint) as caught:
                await model.complete({**BODY, "messages": messages}, timeout_s=TIMEOUT_S)
            assert caught.value.status == 400


class TestFaultsOverHttp:
    """Each fault against the real client: it recovers, or says the right thing."""

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize(
        ("bad", "slept"),
        [
            (fault.rate_limit(), 0.25),
            (fault.rate_limit(retry_after=3), 3),
            (fault.server_error(), 0.25),
            (fault.server_error(503), 0.25),
            (fault.not_json(), 0.25),
            (fault.drop(), 0.25),
            (fault.drop(call("t", {"x": "y" * 200})), 0.25),
        ],
    )
    async def test_recovers(self, bad: Any, slept: float, streamed: bool) -> None:
        time = FakeTime()
        async with served(always(fault.first(bad, then=say("well"))), time) as (ask, server):
            reply = await ask(on_text=(lambda _: None) if streamed else None)
        assert reply.message["content"] == "well"
        assert time.slept == [slept]
        assert len({request.raw for request in server.requests}) == 1

    @pytest.mark.parametrize(
        "bad", [fault.rate_limit(), fault.server_error(), fault.not_json(), fault.drop()]
    )
    async def test_gives_up_in_time(self, bad: Any) -> None:
        time = FakeTime()
        async with served(always(bad), time) as (ask, _):
            with pytest.raises(ModelUnavailable):
                await ask()
        assert sum(time.slept) < TIMEOUT_S

    async def test_hanging_ends_with_the_calls_time(self) -> None:
        async with ScriptedModel(always(fault.hang())) as server:
            model = client(None, server.base_url)
            model._clock = Clock()  # pyright: ignore[reportPrivateUsage] - real time, to end what hangs
            with pytest.raises(ModelTimeout):
                await model.complete(BODY, timeout_s=0.05)
            await model.aclose()

    async def test_a_hanging_answer_does_not_keep_the_server(self) -> None:
        asked = asyncio.Event()

        def script(messages: Any, tools: Any) -> Any:
            asked.set()
            return fault.hang()

        async with httpx.AsyncClient(timeout=None) as http:
            async with ScriptedModel(script) as server:
                task = asyncio.create_task(http.post(f"{server.base_url}/chat/completions", json=BODY))
                await asked.wait()
            with pytest.raises(httpx.TransportError):
                await task

    async def test_errors_that_nobody_repeats(self) -> None:
        bad = fault.http_error(429, "pay first", code="insufficient_quota")
        async with served(always(bad)) as (ask, server):
            with pytest.raises(ModelRejected, match="quota"):
                await ask()
        assert len(server.requests) == 1

    async def test_a_script_that_raises_is_no_outage(self) -> None:
        def script(messages: Any, tools: Any) -> Any:
            raise LookupError("no such page")

        async with served(script) as (ask, server):
            with pytest.raises(ModelRejected, match=r"400 script_error\): LookupError: no such page"):
                await ask()
        assert len(server.requests) == 1

    async def test_faults_count_per_conversation(self) -> None:
        script = always(fault.first(fault.server_error(), fault.rate_limit(1), then=say("well")))
        time = FakeTime()
        async with served(script, time) as (ask, server):
            other = {**BODY, "messages": [{"role": "user", "content": "other"}]}
            for body in (BODY, other, BODY, other):
                assert (await ask(body)).message["content"] == "well"
        assert [request.conversation for request in server.requests].count("hi") == 4
        assert time.slept == [0.25, 1, 0.25, 1]


class TestServer:
    async def test_lists_models_and_explains_bad_requests(self) -> None:
        async with (
            ScriptedModel(always(say("x"))) as server,
            httpx.AsyncClient(base_url=server.base_url) as http,
        ):
            assert (await http.get("/models")).json()["data"][0]["id"] == "scripted"
            bad = await http.post("/chat/completions", content=b"[1]")
        assert (bad.status_code, bad.json()["error"]["message"]) == (
            400,
            "The request's body is not a JSON object.",
        )

    async def test_streams_in_openais_form(self) -> None:
        async with ScriptedModel(always(say("hello"))) as server, httpx.AsyncClient() as http:
            url = f"{server.base_url}/chat/completions"
            plain = (await http.post(url, json={**BODY, "stream": True})).text
            counted = await http.post(
                url, json={**BODY, "stream": True, "stream_options": {"include_usage": True}}
            )
        assert counted.headers["content-type"] == "text/event-stream"
        assert counted.text.endswith("data: [DONE]\n\n")
        assert '"usage"' in counted.text
        assert '"choices":[],"usage"' in counted.text.replace(" ", "")
        assert '"usage"' not in plain

    async def test_serves_many_at_once(self) -> None:
        async with served(always(say("x"))) as (ask, server):
            replies = await asyncio.gather(*(ask() for _ in range(200)))
        assert {reply.message["content"] for reply in replies} == {"x"}
        assert len(server.requests) == 200

    async def test_a_large_request_fits(self) -> None:
        body = {**BODY, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
        async with served(always(say("x"))) as (ask, server):
            await ask(body)
        assert server.requests[0].body == body

    async def test_record_off_keeps_nothing(self) -> None:
        async with served(always(say("x")), record=False) as (ask, server):
            await ask()
        assert server.requests == []

    async def test_a_taken_port_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 can't be used"):
                async with ScriptedModel(always(say("x")), port=port):
                    pass

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_latency_is_what_an_answer_takes(self, streamed: bool) -> None:
        async with served(always(say("x" * 100)), latency_s=0.05) as (ask, _):
            start = asyncio.get_running_loop().time()
            await ask(on_text=(lambda _: None) if streamed else None)
            assert asyncio.get_running_loop().time() - start >= 0.05


class TestInProcess:
    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            (fault.server_error(), ModelUnavailable),
            (fault.not_json(), ModelUnavailable),
            (fault.drop(), ModelUnavailable),
            (fault.hang(), ModelTimeout),
            (fault.http_error(401), ModelRejected),
        ],
    )
    async def test_faults_are_the_errors_that_the_client_ends_with(
        self, bad: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await FunctionModel(always(bad), clock=FakeTime().clock).complete(BODY, timeout_s=TIMEOUT_S)

    async def test_a_rate_limit_says_how_long(self) -> None:
        with pytest.raises(ModelUnavailable) as caught:
            await FunctionModel(always(fault.rate_limit(retry_after=7))).complete(BODY, timeout_s=TIMEOUT_S)
        assert caught.value.retry_after_s == 7

    async def test_latency_and_timeout(self) -> None:
        time = FakeTime()
        model = FunctionModel(always(say("x")), latency_s=0.02, clock=time.clock)
        await model.complete(BODY, timeout_s=1)
        with pytest.raises(ModelTimeout):
            await model.complete(BODY, timeout_s=0.01)
        assert time.slept == [0.02, 0.01]

    async def test_a_scripts_mistakes_pass_through(self) -> None:
        with pytest.raises(IndexError, match="the script has 0 answers"):
            await FunctionModel(in_order()).complete(BODY, timeout_s=1)
        with pytest.raises(TypeError, match="a script must return say"):
            await FunctionModel(always("text")).complete(BODY, timeout_s=1)

    async def test_a_reply_is_nobody_elses(self) -> None:
        model = FunctionModel(always(call("a")))
        first = await model.complete(BODY, timeout_s=1)
        first.message["tool_calls"].clear()
        assert (await model.complete(BODY, timeout_s=1)).message["tool_calls"]

    async def test_lenient_takes_any_conversation(self) -> None:
        model = FunctionModel(always(say("x")), strict=False)
        await model.complete({"messages": [{"role": "assistant"}]}, timeout_s=1)


class TestProcess:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Any:
        (tmp_path / "scripts.py").write_text(
            "from runhold.testing import say\ndef script(messages, tools):\n    return say('from a child')\n"
        )
        children: list[subprocess.Popen[str]] = []

        def start(path: str = "scripts:script", **env: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-m", "runhold.models.scripted", path, "--port", "0"],
                cwd=tmp_path,
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            children.append(child)
            return child

        yield start
        for child in children:
            child.kill()
            child.__exit__(None, None, None)  # closes its pipes and waits

    @staticmethod
    def base_url(child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("scripted model ready on http://127.0.0.1:"), line
        return line.split()[-1]

    async def test_serves_and_ends_at_sigterm(self, start: Any) -> None:
        child = start()
        model = client(base_url=self.base_url(child))
        assert (await model.complete(BODY, timeout_s=TIMEOUT_S)).message["content"] == "from a child"
        await model.aclose()
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert child.stderr.read() == ""

    def test_ends_with_its_standard_input_only_if_asked(self, start: Any) -> None:
        asked, not_asked = start(RUNHOLD_EXIT_ON_STDIN_EOF="1"), start()
        for child in (asked, not_asked):
            self.base_url(child)
            child.stdin.close()
        assert asked.wait(10) == 0
        assert not_asked.poll() is None

    def test_a_wrong_script_is_one_sentence(self, start: Any) -> None:
        child = start("scripts:nothing")
        assert child.wait(10) == 2
        assert child.stderr.read().startswith("No script at 'scripts:nothing' (MODULE:FUNCTION): ")

    @pytest.mark.parametrize("path", ["", "json", "json:", "no_such_module:x", "json:__name__"])
    def test_refuses_what_is_no_function(self, path: str) -> None:
        with pytest.raises(ConfigError):
            load_script(path)


def test_testing_imports_without_aiohttp_and_says_what_is_missing() -> None:
    program = """
import asyncio, sys
sys.modules["aiohttp"] = None
import runhold.testing
assert runhold.testing.say("x").text == "x"
model = runhold.testing.ScriptedModel(lambda messages, tools: None)
try:
    asyncio.run(model.__aenter__())
except runhold.errors.ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "ScriptedModel needs aiohttp: pip install 'runhold[local]'.\n", done.stderr
