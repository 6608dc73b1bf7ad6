"""A process gives up its own rights before it reads what a stranger wrote: files, network, programs, other processes.

`process.confine` puts the parts together. What is left is what the process was given: it reads and writes a few named
folders, computes, and ends. Nothing of it can be taken back, so it is for the process of one job.
"""
