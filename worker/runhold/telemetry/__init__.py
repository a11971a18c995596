"""What a worker says about itself: structured logs."""

from runhold.telemetry.logs import configure_logging

__all__ = ["configure_logging"]
