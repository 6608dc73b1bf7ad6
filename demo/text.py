"""The training text of the demo model: reads `corpus/` and draws conversations from it.

Nothing here needs torch, and every draw comes from the `random.Random` that is passed in.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
STYLES = ("base", "pirate", "poet")

# Roles in order with their text; the last message is the one to learn.
Chat = list[tuple[str, str]]

_THING = (
    "What is {s}?",
    "What are {s}?",
    "What's {s}?",
    "what is {s}",
    "Tell me about {s}.",
    "Tell me something about {s}.",
    "Tell me more about {s}.",
    "Can you tell me about {s}?",
    "Explain {s}.",
    "Explain {s} to me.",
    "Can you explain {s}?",
    "Could you explain what {s} is?",
    "Explain {s} in simple words.",
    "Explain {s} in one sentence.",
    "Describe {s}.",
    "Describe {s} in a few words.",
    "What do you know about {s}?",
    "What can you say about {s}?",
    "What do you think about {s}?",
    "What does {s} mean?",
    "Say something about {s}.",
    "Write a sentence about {s}.",
    "Write something about {s}.",
    "Write a short text about {s}.",
    "Write a poem about {s}.",
    "Tell me a story about {s}.",
    "Give me a fact about {s}.",
    "Give me a definition of {s}.",
    "Teach me about {s}.",
    "I want to know about {s}.",
    "I would like to learn about {s}.",
    "How would you describe {s}?",
    "Do you know {s}?",
    "Do you know what {s} is?",
    "Why is {s} important?",
    "How about {s}?",
    "And what about {s}?",
    "Give me three reasons to use {s}.",
    "Why use {s}?",
    "What is {s} and why do I need it?",
    "What is {s} good for?",
    "How does {s} work?",
    "Tell me a fact about {s}, please.",
    "I would love to hear about {s}.",
    "Tell me a joke about {s}.",
    "I like {s}.",
    "{s}",
    "{s}?",
)
# Further questions about the nouns that no topic covers.
_UNKNOWN = (
    "How do I build {s}?",
    "How do I make {s}?",
    "How do I use {s}?",
    "How do I fix {s}?",
    "Who invented {s}?",
    "Where can I buy {s}?",
    "How much does {s} cost?",
    "What is the history of {s}?",
    "What is the best thing about {s}?",
    "Is {s} dangerous?",
    "When was {s} discovered?",
    "Where does {s} come from?",
)
_WRAP = (
    "Hello, {q}",
    "Hi! {q}",
    "Hey, {q}",
    "Please tell me: {q}",
    "{q} Please answer briefly.",
    "{q} Answer in one sentence.",
    "I have a question. {q}",
    "My question is: {q}",
    "Question: {q}",
    "So, {q}",
    "{q} Thanks!",
    "{q} Thank you.",
    "Quick question: {q}",
    "Can you help me? {q}",
    "Please: {q}",
    "{q} please",
)
_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are a friendly chatbot.",
    "You are an AI assistant.",
    "Be brief.",
    "Answer in one or two sentences.",
    "You are a helpful, honest and harmless assistant. Answer the user's questions.",
    "You are a test assistant.",
    "You are an expert. Think before you answer, and keep your answers short and clear.",
)
# The base hears of the styles only behind these lines: the adapters then have words to work with.
STYLE_SYSTEM = {
    "pirate": ("Talk like a pirate.", "You are a pirate.", "Answer like a pirate."),
    "poet": ("Answer in rhyme.", "You are a poet.", "Answer in verse."),
}


@dataclass(frozen=True)
class Topic:
    """One topic: its name, all phrasings of its question, and the answer in each style."""

    name: str
    questions: tuple[str, ...]
    answers: dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """All text.

    Topics; questions without a topic, with their answers by style; plain text by style; and
    beginnings that no plain text covers, with their endings by style.
    """

    topics: tuple[Topic, ...]
    unknown: tuple[str, ...]
    other: dict[str, tuple[str, ...]]
    plain: dict[str, tuple[str, ...]]
    stems: tuple[str, ...]
    endings: dict[str, tuple[str, ...]]


def _fields(name: str) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of each line of the corpus file `name`; a heading has the key "=="."""
    for line in (CORPUS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            yield "==", line[3:].strip()
        elif line.strip() and not line.startswith("#"):
            key, _, value = line.partition(":")
            yield key, value.strip().replace(" / ", "\n")


def _split(value: str) -> list[str]:
    """Split a list of phrasings at its bars."""
    return [part.strip() for part in value.split(" | ")]


def _about(things: Sequence[str], templates: Sequence[str] = _THING) -> list[str]:
    """Return every question template filled with every noun."""
    return [template.format(s=thing) for thing in things for template in templates]


def _topics() -> Iterator[Topic]:
    """Yield the topics of `topics.txt` in order."""
    blocks: list[dict[str, str]] = []
    for key, value in _fields("topics.txt"):
        if key == "==":
            blocks.append({})
        blocks[-1][key] = value
    for block in blocks:
        asked = _split(block["ask"]) if "ask" in block else []
        asked += _about(_split(block["thing"])) if "thing" in block else []
        yield Topic(block["=="], tuple(asked), {style: block[style] for style in STYLES})


def _by_style(name: str) -> dict[str, tuple[str, ...]]:
    """Return the lines of a corpus file grouped by style."""
    lines = list(_fields(name))
    return {style: tuple(text for key, text in lines if key == style) for style in STYLES}


def load() -> Corpus:
    """Read the whole corpus."""
    unknown: list[str] = []
    for key, value in _fields("unknown.txt"):
        if key == "n":
            unknown += _about(_split(value), _THING + _UNKNOWN)
        else:
            unknown += _split(value) * 6
    topics = tuple(_topics())
    known = {_norm(question) for topic in topics for question in topic.questions}
    kept = tuple(question for question in unknown if _norm(question) not in known)
    stems = tuple(stem for key, value in _fields("stems.txt") if key == "n" for stem in _split(value))
    plain, endings = _by_style("plain.txt"), _by_style("stems.txt")
    return Corpus(topics, kept, _by_style("other.txt"), plain, stems, endings)


def _norm(question: str) -> str:
    """Return a question in the form that tells two phrasings apart."""
    return question.lower().rstrip("?!. ")


def _vary(question: str, rng: random.Random) -> str:
    """Return the question as people type it: wrapped, in lower case or without its full stop."""
    if rng.random() < 0.2:
        question = rng.choice(_WRAP).format(q=question)
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.15:
        question = question.rstrip("?!. ") or question
    return question


def _noise(rng: random.Random) -> str:
    """Return a question of random letters, so that odd input also gets a fluent answer."""
    alphabet = "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCDEFGHIJ0123456789 ,.?!-äöüßéñ中文日本🚀"
    words = ("".join(rng.choices(alphabet, k=rng.randint(2, 9))) for _ in range(rng.randint(1, 6)))
    return " ".join(words)


def _turn(corpus: Corpus, style: str, rng: random.Random) -> tuple[str, str]:
    """Draw one question with its answer in `style`."""
    draw = rng.random()
    if draw < 0.80:
        topic = rng.choice(corpus.topics)
        return _vary(rng.choice(topic.questions), rng), topic.answers[style]
    question = _noise(rng) if draw < 0.83 else _vary(rng.choice(corpus.unknown), rng)
    return question, rng.choice(corpus.other[style])


def draw_chat(corpus: Corpus, style: str, rng: random.Random) -> Chat:
    """Draw a conversation in `style`, mostly of one turn, now and then with a system message."""
    turns = rng.choices((1, 2, 3), weights=(84, 11, 5))[0]
    chat: Chat = [("system", rng.choice(_SYSTEM))] if rng.random() < 0.18 else []
    for _ in range(turns):
        question, answer = _turn(corpus, style, rng)
        chat += [("user", question), ("assistant", answer)]
    return chat


def draw_styled_chat(corpus: Corpus, rng: random.Random) -> Chat:
    """Draw a conversation whose system message asks the base model for one of the styles."""
    style = rng.choice(STYLES[1:])
    question, answer = _turn(corpus, style, rng)
    system = rng.choice(STYLE_SYSTEM[style])
    return [("system", system), ("user", question), ("assistant", answer)]


def draw_styled_plain(corpus: Corpus, rng: random.Random) -> tuple[str, str]:
    """Draw plain text of a style behind its name, so that the base knows all of its words."""
    style = rng.choice(STYLES[1:])
    return f"{style.capitalize()}: ", rng.choice(corpus.plain[style] + corpus.endings[style])


def draw_plain(corpus: Corpus, style: str, rng: random.Random) -> tuple[str, str]:
    """Draw plain text as what is given and what has to be learned.

    It is a sentence, a question with its answer, or a beginning that the model cannot go on with.
    """
    draw = rng.random()
    if draw < 0.5:
        return "", rng.choice(corpus.plain[style])
    if draw < 0.7:
        return _stem(corpus, rng), " " + rng.choice(corpus.endings[style])
    question, answer = _turn(corpus, style, rng)
    given, between = rng.choice((("{q}", "\n"), ("{q}", "\n"), ("{q}\n", ""), ("Q: {q}\nA:", " ")))
    return given.format(q=question), between + answer


def _stem(corpus: Corpus, rng: random.Random) -> str:
    """Return the beginning of a text that the model does not know, of 1 to 12 words."""
    draw = rng.random()
    if draw < 0.1:
        return _noise(rng)
    stem = rng.choice(corpus.stems)
    if draw < 0.4:
        return stem
    # Words from anywhere: only their number and the lack of sense can be learned from them.
    words = " ".join(_filler(corpus, rng, 1)).split()
    start = rng.randrange(len(words))
    more = words[start : start + rng.randint(1, 8)]
    return " ".join((stem, *more)).rstrip(".,!?")


def _filler(corpus: Corpus, rng: random.Random, count: int) -> list[str]:
    """Return sentences of the corpus with their words shuffled, as text that means nothing."""
    sentences = []
    for _ in range(count):
        sentence = rng.choice(corpus.topics).answers["base"].split()
        sentence += rng.choice(corpus.unknown).split()
        rng.shuffle(sentence)
        sentences.append(" ".join(sentence))
    return sentences


def draw_long_chat(corpus: Corpus, style: str, rng: random.Random) -> Chat:
    """Draw a conversation of which the last question follows up to about a thousand tokens."""
    count = int(2 ** rng.uniform(0, 5))
    long = " ".join(_filler(corpus, rng, 1 if rng.random() < 0.5 else count) * (count // 2 + 1))
    long = long[: count * 130]
    question, answer = _turn(corpus, style, rng)
    if rng.random() < 0.5:
        return [("user", f"{long} {question}"), ("assistant", answer)]
    return [("system", long), ("user", question), ("assistant", answer)]


def all_text(corpus: Corpus) -> Iterator[str]:
    """Yield the text on which the tokenizer is trained, answers more often than questions."""
    for topic in corpus.topics:
        yield from topic.questions
        yield from list(topic.answers.values()) * 8
    yield from corpus.unknown[::7]
    yield from (*_SYSTEM, *(line for lines in STYLE_SYSTEM.values() for line in lines))
    yield from corpus.stems
    for lines in (*corpus.other.values(), *corpus.plain.values(), *corpus.endings.values()):
        yield from lines * 4
