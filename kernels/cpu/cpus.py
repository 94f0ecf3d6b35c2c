"""How many CPUs a process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def granted_cpus(mounted: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """The CPUs of the process's affinity, cut down to the quota of its control groups (Linux: cgroup v2, or the cpu controller of
    v1) and of those above them. `mounted` is where the groups are mounted, `own` the file that tells the process's."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota, period in _quotas(Path(mounted), Path(own)):
        if quota > 0 and period > 0:
            cpus = min(cpus, max(1, -(-quota // period)))
    return cpus


def _quotas(mounted: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Quota and period, in microseconds, of each group that says so. In a container its own group may be mounted as the root, under
    which the path that the process is told does not exist: then the root counts."""
    try:
        lines = own.read_text("ascii", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted if not controllers else next((f for f in (mounted / controllers, mounted / "cpu") if f.is_dir()), mounted)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            yield from _quota(folder)
            if folder == root:
                break


def _quota(group: Path) -> Iterator[tuple[int, int]]:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota), int(period)
        elif (group / "cpu.cfs_quota_us").exists():
            yield int((group / "cpu.cfs_quota_us").read_text()), int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        pass  # it does not say
