"""How much memory a model takes, and what of it fits on a machine. (`cluster/deployment/plan.py` is what `up` runs.)"""
