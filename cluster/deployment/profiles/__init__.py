"""From the name of a model in a manifest to how it is served on this machine."""
