"""Runs in the background: a bounded number of threads for the whole process, and futures that end a run when they are cancelled."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from ..ir.limits import interrupted_by
from ..kernels.cpu.cpus import granted_cpus

T = TypeVar("T")


class Run(Future[T]):
    """A run in the background: a `concurrent.futures.Future` that can also be awaited, in any event loop.

    It is the future of threads and not asyncio's, since that serves code with and without an event loop, and several loops. Other
    than usual, `cancel` ends a run that has begun too, within about 20 ms of native work; the future is done when nothing of the
    run goes on any more, and the arrays given as `out` are the caller's again. An await that is cancelled (by `asyncio.timeout`, a
    task group) cancels the run and waits for that.
    """

    def __init__(self, work: Callable[[], T]):
        super().__init__()
        self._work: Callable[[], T] | None = work
        self._begun = self._stop = False

    def cancel(self) -> bool:
        """Asks the run to end; False if it is over."""
        with self._condition:
            if self.done() or super().running():
                return False
            self._stop = True
            if self._begun or self._work is None:
                return True
            self._work = None  # from here on nobody begins it
        return self._end_cancelled()

    def _end_cancelled(self) -> bool:
        super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def running(self) -> bool:
        """Whether it has begun and is not over."""
        return self._begun and not self.done()

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        outcome = asyncio.wrap_future(self)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            self.cancel()
            while not self.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([outcome])
            raise

    def carry_out(self) -> None:
        """Runs. All the while the future is pending to its base class, which can cancel nothing else."""
        with self._condition:
            work, self._work = self._work, None  # which holds the inputs
            self._begun = work is not None
        if work is None:
            return
        try:
            with interrupted_by(self._look):
                result = work()
        except BaseException as e:  # it belongs to who asks for the result
            if self._counts():
                self.set_exception(e)
        else:
            if self._counts():
                self.set_result(result)

    def _look(self) -> None:
        if self._stop:
            raise CancelledError

    def _counts(self) -> bool:
        """Whether the outcome does: not if the run was cancelled."""
        with self._condition:
            if not self._stop:
                return self.set_running_or_notify_cancel()
        return not self._end_cancelled()


class Threads:
    """As many threads as the process was granted CPUs, started when there is work: more would only take the cores from each other.
    They are daemons: a process may end while they run."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Run[Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count, self._most = 0, granted_cpus()

    def submit(self, run: Run[Any]) -> None:
        with self._lock:
            if self._count < self._most:
                threading.Thread(target=self._serve, name=f"graphmill-run-{self._count}", daemon=True).start()
                self._count += 1
        self._todo.put(run)

    def _serve(self) -> None:
        while True:
            self._todo.get().carry_out()


_threads = Threads()


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    global _threads
    _threads = Threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def submit(work: Callable[[], T]) -> Run[T]:
    """Has `work` done by one of the process's threads for this. What it raises, the future raises."""
    run = Run(work)
    _threads.submit(run)
    return run
