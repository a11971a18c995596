"""The worker process: wake, claim, lease, slots, shutdown. ``worker.run_worker`` is all of it."""
