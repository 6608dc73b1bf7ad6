"""How the middleware and the engine of a vLLM worker, two processes, speak of tokens to be made first."""

#: In ``SamplingParams.extra_args``: the ids, of a request with several choices a list of ids for each.
NOTE = "clusterctl_replay"

#: The environment variable that a worker of ours has: other engines of the same environment follow no note.
ENABLED = "CLUSTERCTL_REPLAY"

#: What vLLM is told to load, by the entry point ``vllm.logits_processors``.
PROCESSOR = "worker.engines.replay.processor:Forced"
