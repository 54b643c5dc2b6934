"""Two ways of one thing, timed turn by turn, so that whatever else the machine does hits both alike."""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

COMPARISONS = {}  # by name


@dataclass
class Comparison:
    """What `comparison` was told, and `make`: called with a folder, a context that gives the two ways."""

    what: str
    beside: str
    limit: float  # the ratio that is aimed at: ours by theirs, at most
    unit: str  # of what a way gives: "s" or "MB"
    warm_up: bool  # whether both ways are done once before it counts
    make: Callable


@dataclass
class Result:
    """What the rounds of a comparison gave; `problem` says why there are none."""

    comparison: Comparison
    ours: list[float] = field(default_factory=list)  # a number a round
    theirs: list[float] = field(default_factory=list)
    problem: str | None = None

    @property
    def ratios(self):
        """Ours by theirs, of each round."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self):
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)


def comparison(what, beside, limit, unit="s", warm_up=True):
    """Register a generator function that yields two functions, ours and theirs, which return what they cost."""

    def register(make):
        COMPARISONS[make.__name__] = Comparison(what, beside, limit, unit, warm_up, contextlib.contextmanager(make))
        return make

    return register


def timed(function):
    """`function` as one that returns the seconds that it took."""

    def run():
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return run


def measure(comparison, place, rounds):
    """Do both ways `rounds` times in turn, each round the other one first. Returns the Result."""
    result = Result(comparison)
    try:
        with comparison.make(place) as (ours, theirs):
            if comparison.warm_up:
                ours(), theirs()
            for number in range(rounds):
                both = [(ours, result.ours), (theirs, result.theirs)]
                for way, costs in both if number % 2 else reversed(both):
                    costs.append(way())
    except ImportError as error:
        result.problem = f"{error.name} is not installed"
    return result
