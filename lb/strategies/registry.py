"""The strategies by name."""

from __future__ import annotations

from collections.abc import Mapping

from lb.strategies.base import Factory
from lb.strategies.least_connections import LeastConnections
from lb.strategies.power_of_two import PowerOfTwo
from lb.strategies.random import Random
from lb.strategies.response_time import ResponseTime
from lb.strategies.round_robin import RoundRobin
from lb.strategies.weighted import Weighted

STRATEGIES: Mapping[str, Factory] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "weighted": Weighted,
    "random": Random,
    "response_time": ResponseTime,
    "power_of_two": PowerOfTwo,
}
