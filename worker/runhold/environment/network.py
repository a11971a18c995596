"""Proxies and certificates: variables that HTTP clients read by themselves, and fail at in words of their own.

They are tried before anything starts: later, such a failure would look like an outage, or like an error of ours.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from functools import cache
from typing import Final

import httpx

from runhold.environment.variables import NO_PROXY, PROXIES, mistakes, variable
from runhold.errors import ConfigError
from runhold.tls import tls_context

_UPPER: Final = (*PROXIES, NO_PROXY)
PROXY_NAMES: Final = (*_UPPER, *(name.lower() for name in _UPPER))

CERT_FILE: Final = "SSL_CERT_FILE"
CERT_DIR: Final = "SSL_CERT_DIR"
KEY_LOG: Final = "SSLKEYLOGFILE"

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def require_network() -> None:
    """Refuse proxies and certificates in the environment that no HTTP client can use.

    :raises ConfigError: one sentence for each variable; the value is not shown.
    """
    found = mistakes(os.environ, (name for name in PROXY_NAMES if os.environ.get(name)))
    if not found and not _works(_client):
        found = [sentence for name in PROXY_NAMES if (sentence := _about_proxy(name)) is not None]
        found = found or [
            "The proxies in the environment can't be used: correct or unset HTTP_PROXY and the like."
        ]
    found += _about_certificates()
    if found:
        raise ConfigError(" ".join(found))


def bypass_proxies_for_loopback(environ: MutableMapping[str, str]) -> None:
    """Take this machine itself out of what goes through a proxy, which could not reach it.

    Both spellings of the variable are set: some programs read one of them, some the other.
    """
    if not any(environ.get(name) or environ.get(name.lower()) for name in PROXIES):
        return
    given = environ.get(NO_PROXY.lower()) or environ.get(NO_PROXY) or ""
    entries = [entry.strip() for entry in given.split(",") if entry.strip()]
    if "*" not in entries:
        entries += [host for host in LOOPBACK if host not in entries]
    environ[NO_PROXY] = environ[NO_PROXY.lower()] = ",".join(entries)


def _client() -> None:
    httpx.AsyncClient(verify=tls_context("http:"))  # nothing is opened, so nothing is to be closed


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:  # whatever the client makes of it
        return False
    return True


@contextmanager
def _only(name: str, value: str) -> Generator[None]:
    """An environment in which no other proxy variable is set. Used where the process is about to end."""
    kept = {each: os.environ.pop(each) for each in PROXY_NAMES if each in os.environ}
    try:
        os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update(kept)


def _about_proxy(name: str) -> str | None:
    """What is wrong with one of the variables, tried without the others."""
    value = os.environ.get(name, "")
    if name.upper() == NO_PROXY:
        for number, entry in enumerate(value.split(","), start=1):
            with _only(name, entry.strip()):
                if not _works(_client):
                    return (
                        f"{name} holds {_shown(entry.strip()) or f'an entry (number {number})'}, which the HTTP client "
                        "can't read: give host names, domains and single addresses, but no range of IPv6 addresses."
                    )
        return None
    with _only(name, value):
        try:
            _client()
        except ImportError:
            return (
                f"{name} names a SOCKS proxy, which needs a package: pip install 'httpx[socks]' python-socks, or "
                "give the address of an HTTP proxy."
            )
        except Exception:
            known = variable(name)
            assert known is not None
            return f"{name} is no proxy that can be used: give {known.give}."
    return None


def _shown(entry: str) -> str | None:
    """A range of addresses, which is no secret; None: it may be anything."""
    try:
        ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
    return repr(entry)


@cache  # it takes as long as everything else together
def _holds_certificates(path: str) -> bool:
    return _works(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path))


def _about_certificates() -> list[str]:
    """What is wrong with the variables that TLS reads."""
    found: list[str] = []
    file, folders, key_log = (os.environ.get(name, "") for name in (CERT_FILE, CERT_DIR, KEY_LOG))
    if file and not _holds_certificates(file):
        found.append(
            f"{CERT_FILE} names no readable file of certificates: give one in PEM format, or unset it."
        )
    if folders and not any(os.path.isdir(folder) for folder in folders.split(os.pathsep)):
        found.append(f"{CERT_DIR} names no folder of certificates: give one, or unset it.")
    if key_log and not _works(
        lambda: setattr(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "keylog_filename", key_log)
    ):
        found.append(f"{KEY_LOG} names no file that can be written: give one, or unset it.")
    return found
