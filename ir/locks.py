"""Locks that a forked child finds open."""

from __future__ import annotations

import os
import threading
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
