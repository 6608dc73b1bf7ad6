"""Commands for people that are no part of the control plane."""
