"""Adapters and models on their way out: to a hub, a bucket, a folder. A job: ``push``."""
