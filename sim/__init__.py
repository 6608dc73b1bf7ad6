"""Routing policies on recorded traffic, with simulated engines: `python -m sim --help`.

The policy classes are the balancer's own, unchanged. What is simulated is the engine (`worker.py`, an iteration at a
time in effect, many at a time in the computation) and time.
"""
