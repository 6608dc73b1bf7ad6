"""``models.yaml``: models by name, and for each how it is served on which machine."""
