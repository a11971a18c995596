"""Proxies and certificates that no HTTP client can use, and this machine, which no proxy can reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runhold.environment.network import PROXY_NAMES, bypass_proxies_for_loopback, require_network
from runhold.errors import ConfigError


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_NAMES, "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "NO_PROXY",
            "localhost,fd00::/8",
            "NO_PROXY holds 'fd00::/8', which the HTTP client can't read: give",
        ),
        ("no_proxy", "[fd00::]/8", "no_proxy holds '[fd00::]/8', which"),
        ("NO_PROXY", "a.example,hunter2:hunter3", "NO_PROXY holds an entry (number 2), which"),
        ("NO_PROXY", "http://x:hunter2", "NO_PROXY holds an entry (number 1)"),
        ("NO_PROXY", "hunter2-ü..é", "NO_PROXY holds an entry (number 1), which"),
        ("HTTP_PROXY", "ftp://me:hunter2@x", "HTTP_PROXY is no proxy that can be used: give the proxy's"),
        ("https_proxy", "://hunter2", "https_proxy"),
        ("ALL_PROXY", "http://x:hunter2", "ALL_PROXY can't be read as an address"),
        ("ALL_PROXY", "http://me:hunter2@x:99999", "ALL_PROXY can't be read as an address"),
        ("ALL_PROXY", "socks5://me:hunter2@x:1080", "ALL_PROXY names a SOCKS proxy, which needs a package"),
        ("HTTPS_PROXY", "postgres://me:hunter2@h/db", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "sb_secret_hunter2", "HTTPS_PROXY is a secret key of Supabase"),
        ("SSL_CERT_FILE", "/no/hunter2", "SSL_CERT_FILE names no readable file of certificates"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE names no readable file of certificates"),
        ("SSL_CERT_DIR", "/no/hunter2", "SSL_CERT_DIR names no folder"),
        ("SSLKEYLOGFILE", "/no/hunter2", "SSLKEYLOGFILE names no file that can be written"),
    ],
)
def test_what_a_client_can_not_use_is_one_sentence(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(ConfigError) as refused:
        require_network()
    assert str(refused.value).startswith(says)
    assert "hunter" not in str(refused.value)
    assert os.environ == before


def test_what_a_client_can_use_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_network()
    monkeypatch.setenv("HTTPS_PROXY", "me:hunter2@proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "localhost, 127.0.0.1,::1,.example.org,10.0.0.0/8,host:80,*.x")
    monkeypatch.setenv("SSL_CERT_DIR", f"/no/such:{tmp_path}")
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    require_network()


def test_every_variable_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "fd00::/8")
    monkeypatch.setenv("HTTP_PROXY", "ftp://x")
    with pytest.raises(ConfigError, match=r"HTTP_PROXY is no proxy .* NO_PROXY holds 'fd00::/8'"):
        require_network()


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({}, None),
        ({"NO_PROXY": "a"}, None),
        ({"HTTP_PROXY": "http://p"}, "localhost,127.0.0.1,::1"),
        ({"all_proxy": "http://p", "NO_PROXY": "a, 127.0.0.1"}, "a,127.0.0.1,localhost,::1"),
        ({"https_proxy": "http://p", "NO_PROXY": "a", "no_proxy": "b"}, "b,localhost,127.0.0.1,::1"),
        ({"HTTPS_PROXY": "http://p", "no_proxy": "*"}, "*"),
    ],
)
def test_this_machine_is_reached_without_a_proxy(given: dict[str, str], becomes: str | None) -> None:
    environ = dict(given)
    bypass_proxies_for_loopback(environ)
    assert environ == (given if becomes is None else {**given, "NO_PROXY": becomes, "no_proxy": becomes})
