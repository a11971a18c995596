"""The soak: hundreds of runs on real workers in bad weather, and a verdict. `make soak` runs it."""
