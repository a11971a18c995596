"""The real openai client over a mocked transport: what is sent, tried again, and made of failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx
from model_support import BASE_URL, BODY, KEY, URL, FakeTime, chunk, client, completion, sse

from runhold.errors import ConfigError, ModelError, ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.ports import Usage
from runhold.models.openai import DEFAULT_BASE_URL, MAX_USELESS_ANSWERS, OpenAIChatModel
from runhold.models.request import encode


@pytest.fixture
def provider() -> Iterator[respx.Route]:
    with respx.mock() as mock:
        yield mock.post(URL)


def error(status: int, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": "why", **fields}}, headers=headers)


OK = httpx.Response(200, json=completion())


async def ask(time: FakeTime | None = None, *, timeout_s: float = 30.0, **more: Any) -> Any:
    return await client(time).complete(BODY, timeout_s=timeout_s, **more)


class TestRequest:
    async def test_sends_the_body_as_it_is_ordered(self, provider: respx.Route) -> None:
        provider.mock(return_value=OK)
        body: dict[str, Any] = {
            "tools": [{"b": 1, "a": 2}],
            "model": "m",
            "messages": [{"role": "user", "content": "é 😀 \u2028 \\ \n", "zeta": None, "alpha": True}],
            "temperature": 0.1,
            "top_p": 1.0,
            "seed": 10**20,
            "extra": 1e-7,
        }
        await client().complete(body, timeout_s=30)
        sent = provider.calls.last.request
        assert sent.content == json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        assert sent.headers["content-type"] == "application/json"
        assert sent.headers["authorization"] == f"Bearer {KEY}"

    async def test_adds_only_the_stream_options_when_streaming(self, provider: respx.Route) -> None:
        stream = sse(chunk({"content": "x"}), chunk(finish_reason="stop"))
        provider.mock(return_value=httpx.Response(200, content=stream))
        await ask(on_text=lambda _: None)
        assert provider.calls.last.request.content == encode(
            {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        )

    async def test_every_attempt_sends_the_same_bytes(self, provider: respx.Route) -> None:
        provider.mock(side_effect=[error(500), error(503), OK])
        await ask()
        assert len({call.request.content for call in provider.calls}) == 1

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
    def test_refuses_what_is_not_json(self, value: object) -> None:
        with pytest.raises(ModelRejected, match="can't be written as JSON"):
            encode({"temperature": value})

    def test_writes_a_lone_surrogate_as_valid_utf8(self) -> None:
        assert encode({"a": "x\ud800y"}) == b'{"a":"x?y"}'


class TestRetries:
    @pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
    async def test_tries_again_after(self, provider: respx.Route, status: int) -> None:
        time = FakeTime()
        provider.mock(side_effect=[error(status), OK])
        assert (await ask(time)).message["content"] == "hello"
        assert time.slept == [0.25]

    @pytest.mark.parametrize(
        "broken", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.RemoteProtocolError]
    )
    async def test_tries_again_after_a_broken_connection(
        self, provider: respx.Route, broken: type[httpx.TransportError]
    ) -> None:
        provider.mock(side_effect=[broken("gone"), OK])
        assert (await ask()).message["content"] == "hello"

    async def test_waits_longer_each_time_and_never_past_the_deadline(self, provider: respx.Route) -> None:
        time = FakeTime(chance=1.0)
        provider.mock(return_value=error(503))
        with pytest.raises(ModelUnavailable) as caught:
            await ask(time, timeout_s=30)
        assert time.slept == [0.5, 1, 2, 4, 8, 8]
        assert time.now < 1_030
        assert caught.value.retry_after_s is None
        assert str(caught.value) == "The model provider failed (503): why (after 7 attempts)."

    async def test_jitter_halves_a_wait_at_most(self, provider: respx.Route) -> None:
        time = FakeTime(chance=0.0)
        provider.mock(side_effect=[error(503), error(503), OK])
        await ask(time)
        assert time.slept == [0.25, 0.5]

    @pytest.mark.parametrize(
        ("headers", "waited"),
        [
            ({"retry-after": "7"}, 7),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
            ({"retry-after": "0"}, 0.25),
            ({"retry-after": "-3"}, 0.25),
            ({"retry-after": "soon"}, 0.25),
            ({"retry-after": "nan"}, 0.25),
            ({"retry-after": "inf"}, 0.25),
        ],
    )
    async def test_waits_as_long_as_the_provider_asks(
        self, provider: respx.Route, headers: dict[str, str], waited: float
    ) -> None:
        time = FakeTime()
        provider.mock(side_effect=[error(429, headers), OK])
        await ask(time)
        assert time.slept == [waited]

    async def test_adds_jitter_to_an_asked_wait_but_takes_nothing_off(self, provider: respx.Route) -> None:
        time = FakeTime(chance=1.0)
        provider.mock(side_effect=[error(429, {"retry-after": "10"}), OK])
        await ask(time)
        assert time.slept == [pytest.approx(11)]

    @pytest.mark.parametrize("with_date", [True, False])
    async def test_understands_a_retry_after_date(self, provider: respx.Route, with_date: bool) -> None:
        server_now = datetime(2030, 1, 1, tzinfo=UTC)
        headers = {"retry-after": format_datetime(server_now + timedelta(seconds=5), usegmt=True)}
        if with_date:  # then our own clock, years off, plays no part
            headers["date"] = format_datetime(server_now, usegmt=True)
        time = FakeTime(wall=0.0 if with_date else server_now.timestamp())
        provider.mock(side_effect=[error(429, headers), OK])
        await ask(time)
        assert time.slept == [5]

    async def test_a_date_in_the_past_is_no_wait(self, provider: respx.Route) -> None:
        time = FakeTime(wall=2e9)
        provider.mock(side_effect=[error(503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}), OK])
        await ask(time)
        assert time.slept == [0.25]

    async def test_does_not_wait_for_what_ends_too_late(self, provider: respx.Route) -> None:
        time = FakeTime()
        provider.mock(return_value=error(429, {"retry-after": "60"}))
        with pytest.raises(ModelUnavailable) as caught:
            await ask(time, timeout_s=30)
        assert caught.value.retry_after_s == 60
        assert time.slept == []
        assert provider.call_count == 1

    async def test_names_only_the_host_of_an_address_that_does_not_answer(
        self, provider: respx.Route
    ) -> None:
        provider.mock(side_effect=httpx.ConnectError("All connection attempts failed"))
        with pytest.raises(ModelUnavailable) as caught:
            await ask(timeout_s=0.2)
        assert str(caught.value) == (
            "The connection to model.test failed "
            "(ConnectError: All connection attempts failed) (after 1 attempt)."
        )


class TestRejections:
    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
    async def test_never_repeats(self, provider: respx.Route, status: int) -> None:
        provider.mock(return_value=error(status))
        with pytest.raises(ModelRejected) as caught:
            await ask()
        assert caught.value.status == status
        assert str(status) in str(caught.value)
        assert provider.call_count == 1

    async def test_401_says_which_variable_and_quotes_nothing(self, provider: respx.Route) -> None:
        provider.mock(return_value=error(401, message=f"Incorrect API key provided: {KEY[:5]}***."))
        with pytest.raises(ModelRejected) as caught:
            await ask()
        assert (
            str(caught.value) == "The model provider does not accept the API key (401): check OPENAI_API_KEY."
        )

    async def test_the_key_never_gets_into_a_message(self, provider: respx.Route) -> None:
        for status in (400, 403, 404, 429, 500):
            provider.mock(return_value=error(status, message=f"You sent {KEY}!"))
            with pytest.raises(ModelError, match=r"You sent \[key\]!") as caught:
                await ask(timeout_s=0.2)
            assert KEY not in repr(caught.value)

    @pytest.mark.parametrize("field", ["code", "type"])
    async def test_spent_quota_needs_a_person(self, provider: respx.Route, field: str) -> None:
        provider.mock(return_value=error(429, {"retry-after": "1"}, **{field: "insufficient_quota"}))
        with pytest.raises(ModelRejected, match="quota or credit is used up") as caught:
            await ask()
        assert caught.value.status == 429
        assert provider.call_count == 1

    @pytest.mark.parametrize(
        ("response", "quoted"),
        [
            (httpx.Response(400, json={"error": "plain"}), "plain"),
            (httpx.Response(400, json={"detail": [{"loc": "x"}]}), '[{"loc": "x"}]'),
            (httpx.Response(400, json={"object": "error", "message": "old vLLM"}), "old vLLM"),
            (httpx.Response(400, text="two\n lines"), "two lines"),
            (httpx.Response(400, text="<html>nginx</html>"), "(400)."),
            (httpx.Response(400, json=[]), "(400)."),
            (httpx.Response(400, text="x" * 10_000), "x…"),
            (
                httpx.Response(307, headers={"location": "http://else.test/"}),
                "set OPENAI_BASE_URL to the final",
            ),
        ],
    )
    async def test_quotes_what_the_provider_says_in_short(
        self, provider: respx.Route, response: httpx.Response, quoted: str
    ) -> None:
        provider.mock(return_value=response)
        with pytest.raises(ModelRejected) as caught:
            await ask()
        assert quoted in str(caught.value)
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)


class TestTime:
    @staticmethod
    def silent_after(scope: asyncio.Timeout, *answers: httpx.Response) -> Callable[..., Any]:
        """A provider that gives ``answers``, then none: the time of the call runs out while it is awaited."""
        left = iter(answers)

        async def provider(request: httpx.Request) -> httpx.Response:
            if (response := next(left, None)) is not None:
                return response
            scope.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
            raise AssertionError

        return provider

    async def test_a_model_that_does_not_answer_is_a_timeout(self) -> None:
        scope = asyncio.timeout(None)
        with respx.mock(assert_all_called=False) as mock:
            mock.post(URL).mock(side_effect=self.silent_after(scope))
            with pytest.raises(ModelTimeout, match="no answer within 30 s"):
                await ask(FakeTime(scope=scope))

    async def test_time_used_up_by_failures_is_an_outage(self) -> None:
        scope = asyncio.timeout(None)
        with respx.mock() as mock:
            mock.post(URL).mock(side_effect=self.silent_after(scope, error(503)))
            with pytest.raises(ModelUnavailable, match="503"):
                await ask(FakeTime(scope=scope))

    async def test_real_time_ends_a_call(self) -> None:
        async def silent(request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

        with respx.mock(assert_all_called=False) as mock:
            mock.post(URL).mock(side_effect=silent)
            model = OpenAIChatModel(api_key=KEY, base_url=BASE_URL)
            with pytest.raises(ModelTimeout):
                await model.complete(BODY, timeout_s=0.01)

    async def test_a_cancelled_call_stays_cancelled(self) -> None:
        started = asyncio.Event()

        async def never(request: httpx.Request) -> httpx.Response:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

        with respx.mock(assert_all_called=False) as mock:
            mock.post(URL).mock(side_effect=never)
            task = asyncio.create_task(ask())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    @pytest.mark.parametrize("mistake", [TimeoutError, ValueError])
    async def test_a_mistake_of_the_listener_is_not_the_models(
        self, provider: respx.Route, mistake: type[Exception]
    ) -> None:
        def listener(text: str) -> None:
            raise mistake("mine")

        provider.mock(return_value=httpx.Response(200, content=sse(chunk({"content": "x"}))))
        with pytest.raises(mistake, match="mine"):
            await ask(on_text=listener)


class TestAnswers:
    async def test_usage_with_cached_tokens(self, provider: respx.Route) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}
        provider.mock(return_value=httpx.Response(200, json=completion(usage=usage)))
        assert (await ask()).usage == Usage(input_tokens=100, output_tokens=7, cached_tokens=64)

    @pytest.mark.parametrize(
        "response",
        [
            httpx.Response(200, text="<html>proxy</html>"),
            httpx.Response(200, json=[]),
            httpx.Response(200, json={}),
            httpx.Response(200, text="[" * 100_000),
            httpx.Response(200, json={"choices": []}),
            httpx.Response(200, json={"choices": [{"message": None}]}),
            httpx.Response(
                200, json=completion({"tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]})
            ),
            httpx.Response(200, json=completion({"content": 7})),
            httpx.Response(200, json=completion(finish_reason="error")),
        ],
    )
    async def test_an_answer_of_no_use_is_asked_for_again(
        self, provider: respx.Route, response: httpx.Response
    ) -> None:
        provider.mock(side_effect=[response, OK])
        assert (await ask()).message["content"] == "hello"
        provider.mock(return_value=response)
        with pytest.raises(ModelUnavailable, match="answered with"):
            await ask()

    async def test_useless_answers_are_not_bought_for_ever(self, provider: respx.Route) -> None:
        provider.mock(return_value=httpx.Response(200, text="no"))
        with pytest.raises(ModelUnavailable, match="2 bytes that are not JSON"):
            await ask(timeout_s=1e6)
        assert provider.call_count == MAX_USELESS_ANSWERS

    @pytest.mark.parametrize(
        ("inner", "status"),
        [
            ({"message": "bad", "code": 400}, 400),
            ({"message": "bad", "type": "invalid_request_error"}, None),
            ({"message": "bad", "code": "insufficient_quota"}, None),
        ],
    )
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_an_error_inside_a_200_counts_as_one(
        self, provider: respx.Route, inner: dict[str, Any], status: int | None, streamed: bool
    ) -> None:
        content = sse({"error": inner}) if streamed else json.dumps({"error": inner}).encode()
        provider.mock(return_value=httpx.Response(200, content=content))
        with pytest.raises(ModelRejected) as caught:
            await ask(on_text=(lambda _: None) if streamed else None)
        assert caught.value.status == status

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_passing_error_inside_a_200_is_tried_again(
        self, provider: respx.Route, streamed: bool
    ) -> None:
        inner = {"error": {"message": "overloaded", "code": 502}}
        good = (
            sse(chunk({"content": "hello"}), chunk(finish_reason="stop"))
            if streamed
            else json.dumps(completion())
        )
        bad = sse(inner) if streamed else json.dumps(inner)
        provider.mock(side_effect=[httpx.Response(200, content=bad), httpx.Response(200, content=good)])
        assert (await ask(on_text=(lambda _: None) if streamed else None)).message["content"] == "hello"


class TestStreams:
    async def test_assembles_text_calls_usage_and_extras(self, provider: respx.Route) -> None:
        def piece(index: int, **fields: Any) -> dict[str, Any]:
            return chunk({"tool_calls": [{"index": index, **fields}]})

        provider.mock(
            return_value=httpx.Response(
                200,
                content=sse(
                    chunk({"role": "assistant", "content": "", "reasoning_content": "hm"}),
                    chunk({"content": "Hel", "reasoning_content": " yes"}),
                    chunk({"content": "lo é"}),
                    piece(1, id="b", type="function", function={"name": "second", "arguments": ""}),
                    piece(0, id="a", type="function", function={"name": "first", "arguments": '{"x":'}),
                    piece(0, function={"arguments": " 1}"}),
                    piece(1, id="", function={"name": "", "arguments": "{}"}),
                    chunk(finish_reason="tool_calls"),
                    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}},
                ),
            )
        )
        heard: list[str] = []
        reply = await ask(on_text=heard.append)
        assert heard == ["Hel", "lo é"]
        assert reply.message == {
            "role": "assistant",
            "content": "Hello é",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "first", "arguments": '{"x": 1}'}},
                {"id": "b", "type": "function", "function": {"name": "second", "arguments": "{}"}},
            ],
            "reasoning_content": "hm yes",
        }
        assert reply.finish_reason == "tool_calls"
        assert reply.usage == Usage(input_tokens=5, output_tokens=6)

    async def test_a_stream_without_usage_or_done(self, provider: respx.Route) -> None:
        stream = sse(
            chunk({"refusal": "I "}), chunk({"refusal": "won't"}), chunk(finish_reason="stop"), done=False
        )
        provider.mock(return_value=httpx.Response(200, content=stream))
        reply = await ask(on_text=lambda _: None)
        assert reply.message == {"role": "assistant", "content": None, "refusal": "I won't"}
        assert reply.usage is None

    @pytest.mark.parametrize(
        "broken",
        [
            sse(chunk({"content": "Hel"}), done=False),
            sse(chunk({"content": "Hel"})),
            b"data: {not json\n\n",
            b"data: []\n\n",
            b"data: \xff\n\n",
            b'data: {"a": ' + b"9" * 5_000 + b"}\n\n",
            b"data: " + b"[" * 100_000 + b"\n\n",
            b"",
        ],
    )
    async def test_a_stream_that_breaks_is_asked_for_again(
        self, provider: respx.Route, broken: bytes
    ) -> None:
        good = sse(chunk({"content": "whole"}), chunk(finish_reason="stop"))
        provider.mock(side_effect=[httpx.Response(200, content=broken), httpx.Response(200, content=good)])
        assert (await ask(on_text=lambda _: None)).message["content"] == "whole"

    async def test_a_connection_that_breaks_midway_is_asked_for_again(self, provider: respx.Route) -> None:
        class Breaking(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield sse(chunk({"content": "Hel"}), done=False)
                raise httpx.ReadError("reset")

        good = sse(chunk({"content": "whole"}), chunk(finish_reason="stop"))
        provider.mock(side_effect=[httpx.Response(200, stream=Breaking()), httpx.Response(200, content=good)])
        heard: list[str] = []
        assert (await ask(on_text=heard.append)).message["content"] == "whole"
        assert heard == ["Hel", "whole"]
        provider.mock(side_effect=lambda _: httpx.Response(200, stream=Breaking()))
        with pytest.raises(
            ModelUnavailable, match=r"a stream that broke \(ReadError: reset\) \(after 3 attempts\)"
        ):
            await ask(on_text=lambda _: None)

    async def test_a_server_that_does_not_stream_is_understood(self, provider: respx.Route) -> None:
        provider.mock(return_value=OK)
        heard: list[str] = []
        assert (await ask(on_text=heard.append)).message["content"] == "hello"
        assert heard == ["hello"]

    async def test_a_whole_answer_that_breaks_midway_is_asked_for_again(self, provider: respx.Route) -> None:
        class Breaking(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield b'{"choices": '
                raise httpx.ReadError("reset")

        headers = {"content-type": "application/json"}
        provider.mock(side_effect=[httpx.Response(200, headers=headers, stream=Breaking()), OK])
        assert (await ask(on_text=lambda _: None)).message["content"] == "hello"

    async def test_an_error_status_is_the_same_as_without_stream(self, provider: respx.Route) -> None:
        provider.mock(side_effect=[error(429, {"retry-after": "2"}), error(404)])
        time = FakeTime()
        with pytest.raises(ModelRejected, match="404"):
            await ask(time, on_text=lambda _: None)
        assert time.slept == [2]


class TestSettings:
    def test_reads_the_environment(self) -> None:
        model = OpenAIChatModel.from_env({"OPENAI_API_KEY": " k\n", "OPENAI_BASE_URL": "http://x.test/v1"})
        assert model.base_url == "http://x.test/v1"
        for unset in ({}, {"OPENAI_BASE_URL": ""}, {"OPENAI_BASE_URL": " \n"}):
            assert OpenAIChatModel.from_env({"OPENAI_API_KEY": "k", **unset}).base_url == DEFAULT_BASE_URL

    @pytest.mark.parametrize(
        ("environ", "says"),
        [
            ({}, "Set OPENAI_API_KEY"),
            ({"OPENAI_API_KEY": "  "}, "Set OPENAI_API_KEY"),
            ({"OPENAI_API_KEY": "sk-\nsecret"}, "holds characters that no key has"),
            ({"OPENAI_API_KEY": "sk-ключ"}, "holds characters that no key has"),
            ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "localhost:11434"}, "must start with http"),
            ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://a:b:c"}, "is not a URL"),
        ],
    )
    def test_refuses_settings_that_cannot_work(self, environ: dict[str, str], says: str) -> None:
        with pytest.raises(ConfigError, match=says) as caught:
            OpenAIChatModel.from_env(environ)
        assert "secret" not in str(caught.value)

    async def test_sends_to_the_base_url(self) -> None:
        with respx.mock() as mock:
            route = mock.post("https://gateway.test/prefix/v1/chat/completions").mock(return_value=OK)
            model = client(base_url="https://gateway.test/prefix/v1/")
            await model.complete(BODY, timeout_s=5)
            await model.aclose()
        assert route.called
        assert BASE_URL not in model.base_url
