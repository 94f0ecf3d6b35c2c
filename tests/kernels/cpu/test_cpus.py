"""How many CPUs a container has, from files as Linux writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from graphmill.kernels.cpu.cpus import granted_cpus

ALL = set(range(8))
V2, V1 = "0::/a/b\n", "7:pids:/\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: ALL, raising=False)


def cpus(tmp_path: Path, own: str | None, files: dict[str, str]) -> int:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    return granted_cpus(str(tmp_path / "groups"), str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (None, {}, 8),  # no Linux
        (V2, {}, 8),
        (V2, {"a/b/cpu.max": "200000 100000\n"}, 2),
        (V2, {"a/b/cpu.max": "250000 100000\n"}, 3),  # a part of a CPU is one
        (V2, {"a/b/cpu.max": "1000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),  # the group above has one
        (V2, {"cpu.max": "300000 100000\n"}, 3),  # in a container: its own group is mounted as the root
        (V2, {"a/b/cpu.max": "9900000 100000\n"}, 8),  # more than there are
        (V2, {"a/b/cpu.max": "nonsense\n"}, 8),
        (V2, {"a/b/cpu.max": "100000 0\n"}, 8),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "50000\n"}, 3),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 8),  # none
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"pids/cpu.max": "100000 100000\n"}, 8),  # another controller's
        ("garbage\n", {"cpu.max": "100000 100000\n"}, 8),
    ],
)
def test_quotas(tmp_path: Path, own: str | None, files: dict[str, str], expected: int) -> None:
    assert cpus(tmp_path, own, files) == expected


def test_of_this_process() -> None:
    assert 1 <= granted_cpus() <= 8
