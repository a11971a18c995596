"""Connections for many concurrent calls: several small pools instead of one large.

The cost of a request in httpcore's pool grows with the pool's size, because every request looks at all
connections several times. Measured with 64 calls in flight, client and scripted server in one process: 190
calls/s with one pool, 390 with lanes of 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from openai import AsyncOpenAI

from runhold.tls import tls_context

LANE_CALLS: Final = 8
"""Calls in flight, and so connections, of one pool."""

CONNECT_TIMEOUT_S: Final = 10.0
"""A host that takes longer to accept is tried again. Reading has no limit but the call's own time."""

KEEPALIVE_S: Final = 30.0
"""Idle connections are closed before the load balancers in front of providers do it (60 s and more)."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Lane:
    client: AsyncOpenAI
    in_flight: int = 0


class Lanes:
    """Clients of the same server, each with a pool of its own; a new one opens when all are full."""

    def __init__(self, make_client: Callable[[httpx.AsyncClient], AsyncOpenAI], base_url: str) -> None:
        """
        :param make_client: puts the ``openai`` package's client on top of an HTTP client.
        """
        self._make_client = make_client
        self._base_url = base_url
        self._lanes: list[_Lane] = []
        self._retired: set[_Lane] = set()

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[AsyncOpenAI]:
        """A client with room for one more call, for the length of one."""
        # The first with room, not the emptiest: a few calls at a time then keep a few connections warm.
        lane = next((lane for lane in self._lanes if lane.in_flight < LANE_CALLS), None) or self._open()
        lane.in_flight += 1
        try:
            yield lane.client
        except asyncio.CancelledError:
            self._retire(lane)
            raise
        finally:
            lane.in_flight -= 1
            if lane in self._retired and not lane.in_flight:
                self._retired.discard(lane)
                await lane.client.close()

    async def aclose(self) -> None:
        """Close all connections."""
        for lane in (*self._lanes, *self._retired):
            await lane.client.close()

    def _retire(self, lane: _Lane) -> None:
        """Give a lane no more calls, and close it when its last one has ended.

        httpcore never frees a connection whose call was cancelled (a time-out is a cancellation) in the moment when
        its answer is being closed: over weeks, a worker would fill up with such connections.
        """
        if lane in self._lanes:
            self._lanes.remove(lane)
            self._retired.add(lane)

    def _open(self) -> _Lane:
        http = httpx.AsyncClient(
            verify=tls_context(self._base_url),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None,  # the lane is the limit: a call with a place never waits for another
                max_keepalive_connections=LANE_CALLS,
                keepalive_expiry=KEEPALIVE_S,
            ),
        )
        lane = _Lane(client=self._make_client(http))
        self._lanes.append(lane)
        return lane
