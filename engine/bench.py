"""How long runs take: several ways to run in one process, taking turns, so that a change of the machine's speed meets all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TURN = 0.05  # seconds of one way's runs before it is another's turn
CALM = 0.02  # seconds before a turn in which threads of the way before it, which may spin, go to sleep
SAMPLE = 1e-3  # seconds that one sample takes at least: runs that are shorter are timed in groups
LEAST_TURNS = 3


@dataclass
class Turn:
    """Seconds of one run, once for each sample of a turn, and of how many runs the samples are."""

    wall: list[float]
    cpu: list[float]
    runs: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds of a run, of which a tenth, half and nine tenths of the samples are below; the median of the process's CPU time; runs
    a second of one caller."""

    low: float
    median: float
    high: float
    cpu: float
    per_second: float
    runs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(ways: Mapping[str, Callable[[], Any]], seconds: float, threads: int = 1) -> tuple[dict[str, Timing], dict[str, float]]:
    """The timing of each way, for about so many seconds each, and how many times as long as the first each other way takes (the
    median over the rounds of turns)."""
    turns = take_turns(ways, seconds, threads)
    middles = {name: np.array([np.median(t.wall) for t in turns[name]]) for name in ways}
    first = next(iter(ways))
    return ({name: _timing(turns[name]) for name in ways},
            {name: float(np.median(middles[name] / middles[first])) for name in ways if name != first})  # fmt: skip


def take_turns(
    ways: Mapping[str, Callable[[], Any]], seconds: float, threads: int, least: int = LEAST_TURNS
) -> dict[str, list[Turn]]:
    """The turns of each way, A B C A B C ..., for about so many seconds each, and at least so many rounds."""
    usual = {name: _usual(run) for name, run in ways.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    ends = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < ends or len(turns[next(iter(ways))]) < least:
        for name, run in ways.items():
            if threads > 1 and len(ways) > 1:
                time.sleep(CALM)
            turns[name].append(_turn(run, usual[name]))
    return turns


def _usual(run: Callable[[], Any]) -> float:
    """About how many seconds a run takes, but for the first."""
    run()
    started = time.perf_counter()
    run()
    return max(time.perf_counter() - started, 1e-9)


def _turn(run: Callable[[], Any], usual: float) -> Turn:
    """A turn of a way whose runs take about `usual` seconds. If that is short, an untimed one fills the caches first."""
    started, turn, number = time.perf_counter(), Turn([], []), max(1, round(SAMPLE / usual))
    if usual < TURN:
        run()
    while not turn.wall or time.perf_counter() - started < TURN:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(number):
            run()
        turn.wall.append((time.perf_counter() - wall) / number)
        turn.cpu.append((time.process_time() - cpu) / number)
        turn.runs += number
    return turn


def _timing(turns: list[Turn]) -> Timing:
    wall, cpu = ([s for t in turns for s in getattr(t, clock)] for clock in ("wall", "cpu"))
    low, middle, high = np.quantile(wall, (0.1, 0.5, 0.9)).tolist()
    return Timing(low, middle, high, float(np.median(cpu)), 1 / float(np.mean(wall)), sum(t.runs for t in turns))


def peak_memory() -> int | None:
    """The most bytes of memory that this process ever had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
