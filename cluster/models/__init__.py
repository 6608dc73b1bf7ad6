"""The models of a cluster that has several: which there are, and which of them are up."""
