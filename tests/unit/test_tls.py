"""Certificates are read once, and for https:// alone."""

from __future__ import annotations

import ssl

import pytest

from runhold.models.openai import OpenAIChatModel
from runhold.store.client import Access, connect
from runhold.tls import tls_context


@pytest.mark.parametrize("url", ["https://a.supabase.co", "HTTPS://a.supabase.co/rest/v1"])
def test_https_is_verified_with_the_certificates_of_httpx(url: str) -> None:
    context = tls_context(url)
    assert context is tls_context("https://another.example")
    assert context.get_ca_certs()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:54321", "HTTP://localhost"])
def test_plain_http_trusts_nobody(url: str) -> None:
    context = tls_context(url)
    assert context is tls_context("http://another.example")
    assert context.get_ca_certs() == []
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_clients_of_a_plain_url_read_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_certificates(*_: object, **__: object) -> None:
        raise AssertionError("certificates were read")

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", no_certificates)
    client = await connect("http://127.0.0.1:1", Access("sb_secret_x"), timeout_s=1, connections=1)
    await client.postgrest.session.aclose()
    model = OpenAIChatModel(api_key="k", base_url="http://127.0.0.1:1/v1")
    async with model._lanes.client():  # pyright: ignore[reportPrivateUsage]
        pass
    await model.aclose()
