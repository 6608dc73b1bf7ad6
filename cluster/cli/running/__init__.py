"""Looking at a running cluster, and changing it."""
