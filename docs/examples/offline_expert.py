"""Asks the base model and each of its experts the same, without a server.

    python docs/examples/offline_expert.py
"""

from __future__ import annotations

from worker.offline import OfflineEngine


def main(engine: OfflineEngine) -> None:
    for expert in engine.list_experts():
        print(f"{expert.name}: rank {expert.rank}, of {expert.base_model}. {expert.description}")
    question = "Tell me about the sea."
    names = [None, *(expert.name for expert in engine.list_experts())]
    answers = engine.generate([question] * len(names), {"max_tokens": 24, "temperature": 0}, names)
    for name, answer in zip(names, answers, strict=True):
        print(f"{name or engine.model}: {answer.text!r} ({answer.finish_reason})")


if __name__ == "__main__":
    with OfflineEngine() as engine:  # the demo model; another: OfflineEngine("org/model", {"NAME": "folder"})
        main(engine)
