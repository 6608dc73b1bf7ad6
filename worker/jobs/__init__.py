"""Work with an end and libraries of its own: a process each, ``python -m worker.jobs FOLDER``."""
