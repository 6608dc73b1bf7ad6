from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from lb.routing.strategies.base import Features
from lb.routing.strategies.random import Random
from lbfakes import backends

ANY = Features()


def test_every_one_gets_about_its_share() -> None:
    strategy, three = Random(random.Random(7)), backends(3)
    counts = Counter(strategy.choose(three, ANY)[0].id for _ in range(3000))
    assert all(900 < counts[b.id] < 1100 for b in three)


def test_the_same_seed_makes_the_same_choices() -> None:
    three = backends(3)
    one, other = Random(random.Random(7)), Random(random.Random(7))
    assert [one.choose(three, ANY)[0] for _ in range(50)] == [other.choose(three, ANY)[0] for _ in range(50)]


def test_it_is_not_round_robin() -> None:
    strategy, three = Random(random.Random(7)), backends(3)
    chosen = [strategy.choose(three, ANY)[0] for _ in range(60)]
    assert any(a is b for a, b in pairwise(chosen))
