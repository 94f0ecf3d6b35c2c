"""Artifacts that hold cubins, over a CuPy that is not one (fake_cupy.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphmill as gm
import pytest
from graphmill.engine import archive, artifact, bundled
from graphmill.kernels.cuda import cubins, library, nvrtc, source

from .fake_cupy import Fake
from .harness import needs_shim
from .test_gpu import MODEL, run

pytestmark = needs_shim


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    machine = Fake()
    machine.install(monkeypatch)
    return machine


@pytest.fixture
def saved(fake: Fake, tmp_path: Path) -> Path:
    """An artifact, in a process that has forgotten what it compiled."""
    path = tmp_path / "m.gmill"
    gm.compile(MODEL, "cuda").save(path)
    fake.compiled.clear()
    return path


@pytest.fixture
def no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise nvrtc.CudaUnavailable("nvrtc is not here")

    for name in ("library", "version", "compile_program"):
        monkeypatch.setattr(nvrtc, name, absent)


def manifest_of(path: Path) -> dict[str, Any]:
    return json.loads(bytes(archive.Archive(path).member(artifact.MANIFEST)))


def changed(path: Path, change: Callable[[dict[str, Any]], Any], objects: Callable[[bytes], bytes] = bytes) -> Path:
    """The artifact with another manifest and other objects, all hashes right."""
    old = archive.Archive(path)
    parts = {n: bytes(old.member(n)) for n in artifact.MEMBERS}
    parts[artifact.OBJECTS] = objects(parts[artifact.OBJECTS])
    m = json.loads(parts[artifact.MANIFEST])
    m["members"] = {n: {"bytes": len(parts[n]), "sha256": archive.sha256_of([parts[n]])} for n in artifact.MEMBERS[1:]}
    change(m)
    parts[artifact.MANIFEST] = archive.canonical_json(m)
    out = path.with_name("changed.gmill")
    archive.write_archive(out, {n: [p] for n, p in parts.items()})
    return out


def test_a_trusted_artifact_needs_no_nvrtc(saved: Path, no_nvrtc: None) -> None:
    exe = gm.load(saved, trust=True)
    assert exe.report.compiled == 0 and exe.report.misses == {} and exe.report.kernels == len(manifest_of(saved)["objects"])
    for n in (3, 3, 5):
        run(exe, n)
    exe.save(again := saved.with_name("again.gmill"))
    assert again.read_bytes() == saved.read_bytes()


def test_what_is_kept_with_the_cubins(saved: Path) -> None:
    m = manifest_of(saved)
    assert m["environment"] == {"arch": "sm_90", "options": ",".join(nvrtc.OPTIONS), "nvrtc": "13.0"}
    texts = {step.source.text for step in gm.load(saved, trust=True).plan.kernels()}
    assert {(key, entry) for key, entry, _ in m["objects"]} == {(cubins.key_of(t), source.entry(t)) for t in texts}


def test_cubins_of_strangers_are_not_loaded(saved: Path, fake: Fake) -> None:
    exe = gm.load(saved)
    assert len(fake.compiled) == exe.report.compiled == exe.report.kernels > 1 and not cubins._adopted
    run(exe, 3)


def test_without_trust_nvrtc_is_needed(saved: Path, no_nvrtc: None) -> None:
    with pytest.raises(nvrtc.CudaUnavailable):
        gm.load(saved)


@pytest.mark.parametrize("change", [
    lambda m: m["environment"].update(arch="sm_80"),
    lambda m: m["environment"].update(options="-ftz=true"),
    lambda m: m["environment"].pop("nvrtc"),
    lambda m: m["environment"].update(arch=90),
    lambda m: [row.__setitem__(0, "0" * 64) for row in m["objects"]],
    lambda m: [row.__setitem__(1, "k_other") for row in m["objects"]],
    lambda m: m["objects"].clear(),
])  # fmt: skip
def test_what_does_not_fit_is_compiled_anew(saved: Path, fake: Fake, change: Callable[[dict[str, Any]], Any]) -> None:
    exe = gm.load(changed(saved, change), trust=True)
    assert len(fake.compiled) == exe.report.compiled == exe.report.kernels
    run(exe, 3)


def test_only_what_is_missing_is_compiled(saved: Path, fake: Fake) -> None:
    exe = gm.load(changed(saved, lambda m: m["objects"][1].__setitem__(0, "0" * 64)), trust=True)
    assert fake.compiled == [manifest_of(saved)["objects"][1][1]] and exe.report.compiled == 1
    run(exe, 3)


@pytest.mark.parametrize("damage", [
    lambda raw: raw.replace(b"cubin", b"other"),  # of another form
    lambda raw: raw.replace(b"k_", b"j_"),  # without the kernel
])  # fmt: skip
def test_cubins_that_the_driver_refuses_are_compiled_anew(saved: Path, fake: Fake, damage: Callable[[bytes], bytes]) -> None:
    exe = gm.load(changed(saved, lambda m: None, damage), trust=True)
    assert len(fake.compiled) == exe.report.compiled == exe.report.kernels and not cubins._adopted
    run(exe, 3)
    exe.save(again := saved.with_name("again.gmill"))
    assert again.read_bytes() == saved.read_bytes()


def test_damaged_cubins_are_refused(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    raw[raw.index(b"cubin sm_90")] ^= 1
    saved.write_bytes(raw)
    with pytest.raises(gm.errors.ArtifactError, match=r"objects\.bin"):
        gm.load(saved, trust=True)


@pytest.mark.parametrize(("at", "value"), [(2, 1 << 40), (2, -1), (1, 7), (0, None)])
def test_rows_that_lie_are_refused(saved: Path, at: int, value: Any) -> None:
    with pytest.raises(gm.errors.ArtifactError, match="objects"):
        gm.load(changed(saved, lambda m: m["objects"][0].__setitem__(at, value)), trust=True)


def test_devices_without_cubins_save_none(tmp_path: Path) -> None:
    for device in ("null", "shim"):
        gm.compile(MODEL, "cuda", device=device).save(path := tmp_path / "m.gmill")
        assert manifest_of(path)["objects"] == [] and manifest_of(path)["environment"] == {}
        gm.load(path, trust=True)


def test_calls_of_libraries_have_no_cubins(saved: Path, no_nvrtc: None) -> None:
    from graphmill.kernels.cuda.gpu import Gpu

    call = library.declare("cublaslt", "matmul", 4, {})
    texts = [step.source.text for step in gm.load(saved, trust=True).plan.kernels()]
    cubins._adopted.clear()
    bundled.adopt_cubins(artifact.Loader(saved, None), [call, *texts])
    assert len(cubins._adopted) == len(set(texts)) and Gpu().compile([call, *texts]) == []
