"""Balancers on other machines, fed by this cluster's supervisor."""
