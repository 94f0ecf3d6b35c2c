"""Locks that a forked child finds open.

Of a lock whose holder may be stopped anywhere, since what it guards is whole at any time, the child gets a new one
(`fork_safe_lock`). Where that is not so, the fork waits until nobody is at work there (`ForkGuard`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakSet

_locks: WeakSet[threading.Lock] = WeakSet()


def fork_safe_lock() -> threading.Lock:
    """A lock for what stays whole whoever is stopped while holding it: a child forked meanwhile, in which the holder's thread does
    not exist, finds it open. (It would wait for ever.)"""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def _open() -> None:
    for lock in _locks:
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # what the standard library's own modules do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open)


class ForkGuard:
    """A reentrant lock that forks take: they wait for its holder, and parent and child go on with nobody inside of it. It lives as
    long as the process."""

    def __init__(self, inner: Callable[[], AbstractContextManager[Any]] = nullcontext):
        """`inner` gives another lock that its holders may take, and forks take with it."""
        self._lock, self._inner = threading.RLock(), inner
        self._gate = threading.Lock()  # so that a fork's turn comes, though who holds the lock asks for it again at once
        self._owner: int | None = None
        self._depth = 0
        self._taken: list[AbstractContextManager[Any]] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner != me:
            with self._gate:
                pass
        self._acquire(me)

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()

    def _acquire(self, me: int) -> None:
        self._lock.acquire()
        self._owner = me
        self._depth += 1

    def _before(self) -> None:
        self._gate.acquire()
        self._acquire(threading.get_ident())
        inner = self._inner()
        inner.__enter__()
        self._taken.append(inner)

    def _after(self) -> None:
        self._taken.pop().__exit__(None, None, None)
        self.__exit__()
        self._gate.release()
