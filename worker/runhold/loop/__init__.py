"""The guarded loop: takes a claimed run as far as it goes. It knows no SQL and no HTTP, see :mod:`.ports`."""

from runhold.loop.conversation import build_request
from runhold.loop.endings import Outcome
from runhold.loop.rebuild import RecordedRun, SentRequest, rebuild_request
from runhold.loop.run import run_agent

__all__ = ["Outcome", "RecordedRun", "SentRequest", "build_request", "rebuild_request", "run_agent"]
