"""What `runhold dev` and `runhold demo` need of the environment, before they start anything."""

from __future__ import annotations

import os

from runhold.environment.network import require_network
from runhold.environment.variables import (
    MODEL,
    MODEL_ACCOUNT,
    MODEL_HEADERS,
    MODEL_KEY,
    MODEL_URL,
    require,
)


def require_environment() -> None:
    """Refuse what the worker could not work with.

    :raises ConfigError: one sentence for each variable.
    """
    require_network()
    require(os.environ, MODEL, MODEL_KEY, MODEL_URL, *MODEL_ACCOUNT, MODEL_HEADERS)
