"""What exactly did the model see? The request of any recorded step, from the log alone.

The request is made by the same code as in a living run (:mod:`runhold.loop.conversation`); only the rows' way here
is another. :func:`runhold.models.request.encode` makes it the bytes that were sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from msgspec import Struct

from runhold.loop.conversation import build_request
from runhold.loop.ports import Definition, JsonObject, Step, ToolCall


class RecordedRun(Struct, frozen=True, kw_only=True):
    """A run as its rows tell it.

    :ivar steps: in order, from the first on; ``calls`` are theirs.
    :ivar definitions: those that the steps were decided under, by id.
    """

    input: JsonObject
    steps: Sequence[Step]
    calls: Sequence[ToolCall]
    definitions: Mapping[UUID, Definition]


@dataclass(frozen=True, kw_only=True, slots=True)
class SentRequest:
    """A request to the model.

    :ivar body: its members in the order in which they were sent, without those that ask for a stream.
    :ivar stream: whether a stream was asked for.
    """

    body: JsonObject
    stream: bool


def rebuild_request(run: RecordedRun, step_number: int) -> SentRequest:
    """The request that step ``step_number`` of ``run`` is the answer to.

    :raises LookupError: the run has no such step.
    """
    before = [step for step in run.steps if step.step_number < step_number]
    step = next((step for step in run.steps if step.step_number == step_number), None)
    if step is None:
        raise LookupError(f"there is no step {step_number} among {len(run.steps)}")
    calls = [call for call in run.calls if call.step_number < step_number]
    definition = run.definitions[step.definition_id]
    body = build_request(
        definition,
        run.input,
        before,
        calls,
        step.injected,
        max_output_tokens=step.max_output_tokens,
        landing=step.landing is not None,
    )
    return SentRequest(body=body, stream=step.streamed)
