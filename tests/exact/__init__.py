"""What `tests/lb/forwarding/test_exact.py` counts: a balancer in a process of its own, its workers and its clients."""
