"""`clusterctl bench`: load on one URL, and what came of it. Every file but `send`, `run` and `plot` is without I/O."""
