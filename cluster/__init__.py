"""The control plane: one supervisor per cluster, the only writer of its state."""
