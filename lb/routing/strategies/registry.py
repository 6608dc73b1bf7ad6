"""The strategies by name."""

from __future__ import annotations

from collections.abc import Mapping

from lb.routing.strategies.base import Factory
from lb.routing.strategies.least_connections import LeastConnections
from lb.routing.strategies.power_of_two import PowerOfTwo
from lb.routing.strategies.random import Random
from lb.routing.strategies.response_time import ResponseTime
from lb.routing.strategies.round_robin import RoundRobin
from lb.routing.strategies.weighted import Weighted

STRATEGIES: Mapping[str, Factory] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "weighted": Weighted,
    "random": Random,
    "response_time": ResponseTime,
    "power_of_two": PowerOfTwo,
}
