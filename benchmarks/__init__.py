"""Benchmarks of fpgwot and its peers: `python -m benchmarks` (see `runner.py`). Not part of the installed package."""
