"""One form for the log, whatever dialect the provider speaks."""

from __future__ import annotations

from typing import Any

import pytest
from model_support import chunk, completion

from runhold.loop.ports import ModelReply, Usage
from runhold.models.reply import StreamedAnswer, UnusableAnswer, clean_text, read_completion


def call(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}, **fields}


def function(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def read_calls(*calls: dict[str, Any], finish_reason: str = "tool_calls") -> list[dict[str, Any]]:
    reply = read_completion(
        completion({"content": None, "tool_calls": list(calls)}, finish_reason=finish_reason)
    )
    return reply.message["tool_calls"]


def read_stream(*chunks: dict[str, Any]) -> ModelReply:
    answer = StreamedAnswer()
    for one in chunks:
        answer.add(one)
    return answer.finish()


class TestMessage:
    def test_keeps_what_is_regular_exactly(self) -> None:
        message = {
            "role": "assistant",
            "content": "é",
            "tool_calls": [call(function=function("t", ' {"b":1,"a":2} '))],
        }
        assert read_completion(completion(message, finish_reason="tool_calls")).message == message

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (None, None),
            ("", ""),
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
            (["a", {"type": "thinking", "thinking": []}, "b"], "ab"),
        ],
    )
    def test_content_becomes_text(self, content: Any, text: str | None) -> None:
        assert read_completion(completion({"content": content})).message == {
            "role": "assistant",
            "content": text,
        }

    def test_finds_a_refusal_among_the_parts(self) -> None:
        parts = [{"type": "refusal", "refusal": "no"}]
        assert read_completion(completion({"content": parts})).message["refusal"] == "no"
        assert read_stream(chunk({"content": parts}), chunk(finish_reason="stop")).message["refusal"] == "no"

    def test_keeps_extras_but_not_empty_ones(self) -> None:
        message = {
            "content": "x",
            "reasoning_content": "hm",
            "reasoning_details": [{"type": "summary"}],
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": None,
            "refusal": None,
        }
        assert read_completion(completion(message)).message == {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "hm",
            "reasoning_details": [{"type": "summary"}],
        }

    def test_what_can_not_be_stored_is_replaced(self) -> None:
        message = {"content": "a\0b\ud83dc", "extra": {"k\0": ["\udc00"]}, "tool_calls": [call(id="\0")]}
        assert read_completion(completion(message)).message == {
            "role": "assistant",
            "content": "a\ufffdb\ufffdc",
            "tool_calls": [call(id="\ufffd")],
            "extra": {"k\ufffd": ["\ufffd"]},
        }

    def test_a_torn_emoji_is_joined(self) -> None:
        assert clean_text("\ud83d\ude00 and \ud83d") == "😀 and \ufffd"
        reply = read_stream(
            chunk({"content": "\ud83d"}), chunk({"content": "\ude00"}), chunk(finish_reason="stop")
        )
        assert reply.message["content"] == "😀"

    def test_shown_pieces_are_valid_text(self) -> None:
        assert StreamedAnswer().add(chunk({"content": "\ud83d"})) == "\ufffd"


class TestToolCalls:
    def test_missing_and_doubled_ids_are_made_of_the_position(self) -> None:
        calls = read_calls(call(), call(), call(id=None), call(id=""), call(id="call_5"), call(id="a"))
        assert [one["id"] for one in calls] == ["a", "call_1", "call_2", "call_3", "call_5", "call_5_"]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"b": [1, 2.5], "a": "é"}, '{"a":"é","b":[1,2.5]}'),
            (None, "{}"),
            ("", "{}"),
            (" \n", "{}"),
            ('{"a": ', '{"a": '),
            ([1], "[1]"),
        ],
    )
    def test_arguments_become_text(self, arguments: Any, text: str) -> None:
        assert read_calls(call(function=function("t", arguments)))[0]["function"]["arguments"] == text

    def test_extras_of_a_call_are_kept(self) -> None:
        extra = {"google": {"thought_signature": "s"}}
        assert read_calls(call(extra_content=extra, index=0)) == [call(extra_content=extra)]
        streamed = read_stream(
            chunk({"tool_calls": [call(extra_content=extra, index=0)]}), chunk(finish_reason="stop")
        )
        assert streamed.message["tool_calls"] == [call(extra_content=extra)]

    def test_a_call_that_the_output_limit_cut_is_left_out(self) -> None:
        assert read_calls(call(), {"id": "b", "function": {}}, finish_reason="length") == [call()]
        with pytest.raises(UnusableAnswer, match="without a name"):
            read_calls(call(), {"id": "b", "function": {}})

    @pytest.mark.parametrize("calls", [7, "x", {"a": 1}, [None], [{"function": "x"}], [{"type": "custom"}]])
    def test_hopeless_calls_are_refused(self, calls: Any) -> None:
        with pytest.raises(UnusableAnswer):
            read_completion(completion({"content": None, "tool_calls": calls}))

    def test_streams_without_indexes(self) -> None:
        reply = read_stream(
            chunk({"tool_calls": [{"id": "a", "function": function("one", '{"x"')}]}),
            chunk({"tool_calls": [{"function": {"arguments": ":1}"}}]}),
            chunk({"tool_calls": [{"id": "b", "function": function("two", "{}")}]}),
            chunk({"tool_calls": [{"id": "b", "function": {"arguments": ""}}]}),
            chunk(finish_reason="tool_calls"),
        )
        assert reply.message["tool_calls"] == [
            call(function=function("one", '{"x":1}')),
            call(id="b", function=function("two", "{}")),
        ]


class TestFinishReason:
    @pytest.mark.parametrize(
        ("given", "with_calls", "reason"),
        [
            ("stop", False, "stop"),
            ("length", True, "length"),
            ("content_filter", False, "content_filter"),
            (None, False, None),
            ("stop", True, "tool_calls"),
            (None, True, "tool_calls"),
            ("function_call", True, "tool_calls"),
        ],
    )
    def test_says_tool_calls_where_there_are_some(
        self, given: Any, with_calls: bool, reason: str | None
    ) -> None:
        message = {"content": "x", "tool_calls": [call()] if with_calls else None}
        assert read_completion(completion(message, finish_reason=given)).finish_reason == reason


class TestUsage:
    @pytest.mark.parametrize(
        ("given", "usage"),
        [
            ({"prompt_tokens": 9, "completion_tokens": 0}, Usage(input_tokens=9, output_tokens=0)),
            (
                {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None},
                Usage(input_tokens=9, output_tokens=1),
            ),
            (
                {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}},
                Usage(input_tokens=9, output_tokens=1, cached_tokens=9),
            ),
            ({"prompt_tokens": 0, "completion_tokens": 0}, None),
            ({"prompt_tokens": -1, "completion_tokens": 0}, None),
            ({"prompt_tokens": "9", "completion_tokens": 1}, None),
            ({"prompt_tokens": 9}, None),
            ({}, None),
            ("many", None),
        ],
    )
    def test_is_none_where_it_would_not_be_true(self, given: Any, usage: Usage | None) -> None:
        assert read_completion(completion(usage=given)).usage == usage

    def test_a_stream_that_counts_as_it_goes_counts_once(self) -> None:
        reply = read_stream(
            chunk({"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 1}),
            chunk({"content": "b"}, usage={"prompt_tokens": 9, "completion_tokens": 2}),
            chunk(finish_reason="stop"),
        )
        assert reply.usage == Usage(input_tokens=9, output_tokens=2)
