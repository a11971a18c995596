"""The worker process: wake, claim, lease, slots, shutdown."""

from runhold.runtime.config import WorkerConfig
from runhold.runtime.loading import load_agents
from runhold.runtime.worker import run_worker

__all__ = ["WorkerConfig", "load_agents", "run_worker"]
