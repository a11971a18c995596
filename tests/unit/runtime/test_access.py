"""A key that is rejected: for how long, and what the environment file has instead."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from runhold.errors import ConfigError, KeyRejected
from runhold.runtime.access import REREAD_S, STRETCH_S, KeptAccess
from runhold.runtime.config import WorkerConfig
from runhold.store.client import Access

NO = KeyRejected("JWT expired", code="PGRST303")
OLD, NEW = Access("sb_secret_old"), Access("sb_secret_new")
URL = "https://x.supabase.co"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.fixture
async def kept(clock: Clock, file: Path) -> KeptAccess:
    config = WorkerConfig(url=URL, secret_key=OLD.api_key, give_up_s=10, env_file=str(file))
    return KeptAccess(config, clock)


def write(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))


async def gave_up(kept: KeptAccess) -> str | None:
    """What it says if it gave up."""
    try:
        await asyncio.wait_for(kept.until_given_up(), 0.02)
    except TimeoutError:
        return None
    except ConfigError as error:
        return str(error)
    raise AssertionError


async def test_it_gives_up_when_the_key_stays_rejected(kept: KeptAccess, clock: Clock) -> None:
    for _ in range(10):
        kept.rejected(OLD, NO)
        clock.now += 1
    assert await gave_up(kept) is None
    kept.rejected(OLD, NO)
    said = await gave_up(kept)
    assert said is not None
    assert "JWT expired, for 10 s" in said
    assert "SUPABASE_SECRET_KEY" in said


async def test_one_accepted_call_begins_anew(kept: KeptAccess, clock: Clock) -> None:
    kept.rejected(OLD, NO)
    clock.now += 9
    kept.accepted(OLD)
    kept.rejected(OLD, NO)
    clock.now += 9
    kept.rejected(OLD, NO)
    assert await gave_up(kept) is None


async def test_rejections_far_apart_are_not_one_stretch(kept: KeptAccess, clock: Clock) -> None:
    kept.rejected(OLD, NO)
    clock.now += STRETCH_S + 1  # an outage: nobody rejected anything meanwhile
    kept.rejected(OLD, NO)
    assert await gave_up(kept) is None


async def test_a_rotated_key_is_taken_from_the_file(
    kept: KeptAccess, clock: Clock, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.rejected(OLD, NO)
    assert kept.current == OLD
    write(file, f"SUPABASE_URL={URL}/\nSUPABASE_SECRET_KEY={NEW.api_key}\n")
    kept.rejected(OLD, NO)
    assert kept.current == OLD  # the file was read a moment ago
    clock.now += REREAD_S
    with caplog.at_level(logging.WARNING):
        kept.rejected(OLD, NO)
    assert kept.current == NEW
    assert ".env is used" in caplog.text
    assert NEW.api_key not in caplog.text
    kept.rejected(OLD, NO)  # of a call that was under way
    assert kept.current == NEW


async def test_while_both_are_rejected_both_are_tried(kept: KeptAccess, clock: Clock, file: Path) -> None:
    """What the file has may be older than what was in the environment, and a rejection may pass."""
    write(file, f"SUPABASE_SECRET_KEY={NEW.api_key}\n")
    tried: list[Access] = []
    for _ in range(4):
        tried.append(kept.current)
        kept.rejected(kept.current, NO)
        clock.now += REREAD_S
    assert tried == [OLD, NEW, OLD, NEW]
    clock.now += 10
    kept.rejected(kept.current, NO)
    assert await gave_up(kept) is not None


@pytest.mark.parametrize(
    "text",
    [
        "SUPABASE_URL=https://other.supabase.co\nSUPABASE_SECRET_KEY=sb_secret_new\n",
        "SUPABASE_SECRET_KEY=\n",
        "SUPABASE_SECRET_KEY=sb_publishable_new\n",
        "RUNHOLD_WORKER_TOKEN=no.token.atall\nSUPABASE_PUBLISHABLE_KEY=sb_publishable_x\n",
        "\x00\udcff",
    ],
)
async def test_what_no_worker_of_this_project_can_use_is_left_alone(
    kept: KeptAccess, clock: Clock, file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, text)
    for _ in range(3):
        clock.now += REREAD_S
        kept.rejected(OLD, NO)
    assert kept.current == OLD
    assert len(caplog.records) <= 1


async def test_a_file_that_can_not_be_read_is_logged_once_and_read_again(
    kept: KeptAccess, clock: Clock, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, f"SUPABASE_SECRET_KEY='{NEW.api_key}\n")  # somebody is writing it
    for _ in range(3):
        kept.rejected(OLD, NO)
        clock.now += REREAD_S
    [record] = caplog.records
    assert f"Line 1 of {file} can't be understood" in record.getMessage()
    assert NEW.api_key not in record.getMessage()
    write(file, f"SUPABASE_SECRET_KEY='{NEW.api_key}'\n")
    kept.rejected(OLD, NO)
    assert kept.current == NEW
    assert await gave_up(kept) is None
