"""Which nodes there are, from Ray, and an agent on each. Ray itself is imported by `broker.py` alone, in a process of
its own: a driver of Ray's ends with its raylet, and the supervisor must not."""
