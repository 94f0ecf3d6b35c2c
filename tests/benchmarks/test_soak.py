"""The soak for a minute (GRAPHMILL_SOAK names another number of minutes), in a process of its own; and that it sees what it looks for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import graphmill as gm
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import soak
import soak_models


@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    """Every answer as at first, at any number of threads and callers; no thread, file or memory is left over."""
    minutes, data = os.environ.get("GRAPHMILL_SOAK", "1"), tmp_path / "soak.json"
    path = os.pathsep.join(p for p in sys.path if p)
    command = [
        sys.executable,
        soak.__file__,
        "--minutes",
        minutes,
        "--folder",
        str(tmp_path),
        "--json",
        str(data),
        "--markdown",
        str(tmp_path / "soak.md"),
    ]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300 + 120 * float(minutes)
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    report = json.loads(data.read_text())
    assert not report["problems"] and report["runs"]["run"] > 100
    assert "Every answer was as at first" in (tmp_path / "soak.md").read_text()


@pytest.mark.parametrize("model", soak_models.MODELS, ids=lambda m: m.name)
def test_the_models_answer_as_onnxruntime_does(model: soak_models.SoakModel) -> None:
    ort = pytest.importorskip("onnxruntime")
    proto = model.model()
    exe, session = gm.compile(proto), ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(4):
        feeds = model.feeds(seed)
        np.testing.assert_allclose(exe.run(feeds)["y"], session.run(None, feeds)[0], rtol=1e-4, atol=1e-5)
    assert not exe.report.not_native() or model is soak_models.BRANCHES or model is soak_models.LOOP


def test_a_wrong_answer_is_seen() -> None:
    s = soak.Subject("tagger", soak_models.TAGGER.model(), soak_models.TAGGER.feeds)
    right = lambda feeds: s.one.run(feeds).values()  # noqa: E731
    assert s.run(3, right) is None and s.run(3, lambda feeds: s.two.run(feeds).values()) is None
    wrong = s.run(3, lambda feeds: [np.nextafter(x, np.float32(9)) for x in right(feeds)])
    assert wrong is not None and "tagger, inputs 3" in wrong

    def changes(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        feeds["x"][0, 0, 0] += 1
        return []

    assert "changed its inputs" in (s.run(4, changes) or "")


@pytest.mark.parametrize("kind", list(soak.RARE))
def test_each_kind_of_run(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s = soak.Subject("quantized", soak_models.QUANTIZED.model(), soak_models.QUANTIZED.feeds)
    for other in soak.RARE:
        monkeypatch.setitem(soak.RARE, other, 1 if other == kind else 10**9)
    assert [soak.once(s, random.Random(i)) for i in range(2)] == [(kind, None)] * 2


def test_growth_is_seen() -> None:
    def problems(mb: float, threads: int, files: int) -> list[str]:
        """Of a process that grows by so much a second."""
        samples = [soak.Sample(t, 300 + mb * t, 3 + threads * (t // 50), 7 + files * (t // 50) + t % 3) for t in range(101)]
        return soak.Report(samples=samples).problems()

    assert problems(0, 0, 0) == [] and problems(0.1, 0, 0) == []
    assert [p.split()[0] for p in problems(2, 1, 1)] == ["memory", "threads:", "files:"]
