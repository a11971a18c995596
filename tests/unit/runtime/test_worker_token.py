"""A worker's token: what it says, when it ends, and that it is told in time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import jwt
import pytest

from runhold.errors import ConfigError
from runhold.runtime.config import WorkerConfig
from runhold.runtime.user_client import SigningKey
from runhold.runtime.worker_token import DAY_S, mint_worker_token, read_worker_token, warn_before_the_end
from runhold.store.client import Access

SECRET = "a secret of thirty-two characters"
NOW = 1_800_000_000.0  # 2027-01-15


def token(**claims: Any) -> str:
    given = {"role": "runhold_worker", "exp": time.time() + 90 * DAY_S, **claims}
    return jwt.encode({k: v for k, v in given.items() if v is not None}, SECRET, algorithm="HS256")  # pyright: ignore


def config(**fields: Any) -> WorkerConfig:
    return WorkerConfig(url="https://x.supabase.co", publishable_key="sb_publishable_x", **fields)


def test_a_minted_token_names_the_role_and_its_end() -> None:
    minted = mint_worker_token(SigningKey(algorithm="HS256", key=SECRET), now=NOW, ttl_s=90 * DAY_S)
    claims: dict[str, Any] = jwt.decode(  # pyright: ignore
        minted, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}
    )
    assert (claims["role"], claims["iat"], claims["exp"]) == ("runhold_worker", NOW, NOW + 90 * DAY_S)
    assert "sub" not in claims  # it is nobody's
    read = read_worker_token(minted, now=NOW)
    assert read.until == "2027-04-15"
    assert [read.ends_soon(NOW + days * DAY_S) for days in (82, 83)] == [False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sb_secret_x", "is no token"),
        ("a.b.c", "is no token"),
        (token(role="service_role"), "another role than runhold_worker"),
        (token(role=None), "another role than runhold_worker"),
        (token(exp=None), "does not say when it ends"),
        (token(exp=True), "RUNHOLD_WORKER_TOKEN"),
        (token(exp=NOW - DAY_S), "ended on 2027-01-14"),
        (token(exp=-1e300), "ended on 1970-01-01"),
    ],
)
def test_a_token_that_can_not_work_is_told_in_a_sentence(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_worker_token(given, now=NOW)
    assert "`runhold worker-token` makes a new one" in str(caught.value)
    assert given not in str(caught.value)
    assert read_worker_token(token(exp=10**300), now=NOW).until == "9999-12-31"


def test_the_environment_says_which_of_the_two_a_worker_presents() -> None:
    both = {
        "SUPABASE_URL": "https://x.supabase.co",
        "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
    }
    assert WorkerConfig.from_env(both).access == Access("sb_secret_x")
    good = token()
    found = WorkerConfig.from_env({**both, "RUNHOLD_WORKER_TOKEN": good})
    assert found.access == Access("sb_publishable_x", good)
    assert found.access.headers == {"apikey": "sb_publishable_x", "Authorization": f"Bearer {good}"}
    assert found.secrets == ("sb_secret_x", good)  # both are hidden, though one is not presented
    assert good not in repr(found) + repr(found.access)


def test_a_worker_does_not_begin_with_a_token_that_can_not_work() -> None:
    with pytest.raises(ConfigError, match=r"ended on 20"):
        config(worker_token=token(exp=time.time() - 1))
    with pytest.raises(ConfigError, match="beside the project's publishable key"):
        WorkerConfig(url="https://x.supabase.co", worker_token=token())


async def test_the_end_is_told_from_a_week_before_and_daily(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [NOW]
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds
        if len(naps) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr("runhold.runtime.worker_token.asyncio.sleep", sleep)
    ends = read_worker_token(token(exp=NOW + 9.5 * DAY_S), now=NOW)
    with pytest.raises(asyncio.CancelledError), caplog.at_level(logging.WARNING):
        await warn_before_the_end(lambda: ends, clock=lambda: now[0])
    assert naps == [DAY_S, DAY_S, DAY_S / 2, DAY_S, DAY_S]
    assert [record.getMessage() for record in caplog.records] == [
        "RUNHOLD_WORKER_TOKEN ends on 2027-01-24, and then this worker does unless .env has a new one: `runhold worker-token` makes a new one"
    ] * 2
