"""TLS for the HTTP clients that we make ourselves.

Each of them would read all certificates again, also for a URL that needs none. Measured: 0.43 s of CPU from a fork to
"worker ready" with three such clients, 0.23 s without.
"""

from __future__ import annotations

import ssl
from functools import cache

import httpx


def tls_context(url: str) -> ssl.SSLContext:
    """What a client of ``url`` verifies servers with: as ``httpx`` does, read once per process.

    A client of a plain ``http://`` URL gets one that trusts nobody. So it must not follow redirects, as is the default
    of ``httpx``: to ``https://`` it would be refused.
    """
    return _without_certificates() if url.lower().startswith("http://") else _as_httpx_does()


@cache
def _as_httpx_does() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@cache
def _without_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
