"""The numbers that show whether Realtime does what it is there for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from runhold.runtime import wake_report
from runhold.runtime.wake import WakeStats
from runhold.runtime.wake_report import WakeReport


class Heard:
    """Stands for the listener and the claimer: what they counted."""

    def __init__(self) -> None:
        self.stats = WakeStats()
        self.is_heard = True
        self.found: Counter[str] = Counter({"push": 0, "poll": 0})
        self.missed = 0


@pytest.fixture
def heard() -> Heard:
    return Heard()


def _report(heard: Any) -> WakeReport:
    return WakeReport(heard, heard)


def _lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [each for each in caplog.records if getattr(each, "action", "") == "wakes"]


async def _until_told(caplog: pytest.LogCaptureFixture, count: int) -> None:
    async with asyncio.timeout(5):
        while len(_lines(caplog)) < count:
            await asyncio.sleep(0.002)


async def test_every_now_and_then_one_line_says_how_work_was_found(
    heard: Heard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(wake_report, "REPORT_EVERY_S", 0.02)
    heard.found.update(push=12, poll=3, slot=40)
    heard.stats.joins, heard.stats.events, heard.stats.last_trouble = 3, 20, "phx_close"
    heard.stats.last_event_at = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    heard.stats.last_probe_at = datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC)
    task = asyncio.create_task(_report(heard).run())
    await _until_told(caplog, 2)
    task.cancel()
    line = _lines(caplog)[0]
    assert line.levelno == logging.INFO
    assert (line.push, line.poll, line.missed, line.wakes, line.resubscribes) == (12, 3, 0, 20, 2)
    assert (line.last_event_at, line.last_probe_ok) == (
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T03:04:09+00:00",
    )
    assert (line.heard, line.trouble) == (True, "phx_close")
    for told in ("push=12", "poll=3", "resubscribes=2", "last_probe_ok=2026-01-02T03:04:09+00:00"):
        assert told in line.message  # for those who read lines


async def test_wake_ups_that_get_lost_are_said_at_once_and_once(
    heard: Heard, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(wake_report, "LOOK_EVERY_S", 0.01)
    task = asyncio.create_task(_report(heard).run())
    heard.found.update(push=50, poll=4)
    heard.missed = 4  # few: somebody's long transaction
    await asyncio.sleep(0.05)
    heard.found.update(push=50)
    heard.missed = 9  # more, but one in ten at most
    await asyncio.sleep(0.05)
    assert not _lines(caplog)
    heard.missed = 30
    await _until_told(caplog, 1)
    line = _lines(caplog)[0]
    assert line.levelno == logging.WARNING
    assert line.missed == 30
    assert "runhold doctor" in line.message
    heard.found.update(push=500)
    heard.missed = 31
    await asyncio.sleep(0.05)
    assert len(_lines(caplog)) == 1
    task.cancel()


def test_a_worker_without_realtime_has_numbers_too(heard: Heard) -> None:
    heard.is_heard = False
    assert _report(heard).fields() == {
        "heard": False,
        "push": 0,
        "poll": 0,
        "missed": 0,
        "wakes": 0,
        "last_event_at": None,
        "last_probe_ok": None,
        "resubscribes": 0,
        "trouble": None,
    }
