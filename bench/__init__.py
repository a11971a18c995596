"""The benchmark: one agent run, by Runhold and by its peers, side by side on one PostgreSQL. `make bench` runs it."""
