"""Adapters as trainers leave them, brought to what the engine loads: PEFT's names and files, in safetensors.

`source.py` finds the adapter in what somebody names, `layouts.py` says what follows for its tensors and its
configuration, `tensors.py` reads them (pickles by `pickles.py`) and writes the result, in a confined process
(`worker.confinement`): the job `convert` of `job.py`. Nothing but that job imports torch.
"""
