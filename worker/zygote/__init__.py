"""A process that has imported an engine once, and forks a worker a start: no worker has to import it again.

`server` is the process, `child` what becomes of its forks; `engines`: what is imported for each
engine, and how its command is run then. `worker.drivers.forked` asks it. The decision and its figures: docs/startup.md.
"""
