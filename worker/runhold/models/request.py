"""From a request to its bytes."""

from __future__ import annotations

import json

from runhold.errors import ModelRejected
from runhold.loop.ports import JsonObject


def encode(body: JsonObject, *, stream: bool = False) -> bytes:
    """The request's bytes, a function of ``body`` and its key order alone.

    The package's own ``chat.completions.create`` would reorder keys and walk through all messages.

    :raises ModelRejected: ``body`` can't be written as JSON.
    """
    if stream:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelRejected(f"The request to the model can't be written as JSON: {error}.") from error
    # "replace" is for lone surrogates, which UTF-8 does not know; a text may bring them from anywhere.
    return text.encode("utf-8", "replace")
