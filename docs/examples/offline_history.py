"""Several conversations at once, each with an expert of its own, whose turns are kept.

    python docs/examples/offline_history.py
"""

from __future__ import annotations

from worker.offline import OfflineEngine

QUESTIONS = ("Who are you?", "And what do you like best?")


def main(engine: OfflineEngine) -> None:
    experts = ["pirate", "poet"]
    chats: list[list[dict[str, str]]] = [[] for _ in experts]
    for question in QUESTIONS:
        for chat in chats:
            chat.append({"role": "user", "content": question})
        answers = engine.generate(chats, {"max_tokens": 24, "temperature": 0}, experts)
        for chat, answer in zip(chats, answers, strict=True):
            chat.append({"role": "assistant", "content": answer.text})
    for expert, chat in zip(experts, chats, strict=True):
        print(f"-- {expert}")
        for turn in chat:
            print(f"{turn['role']}: {turn['content'].strip()}")


if __name__ == "__main__":
    with OfflineEngine() as engine:
        main(engine)
