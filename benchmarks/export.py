"""Exports the benchmark models to ONNX: `architectures.py` has them, in torch, with seeded random weights.

usage: python benchmarks/export.py [--folder DIR] [--batch N] [--dynamic] [--dynamo] [NAME ...]

Needs what `export-requirements.txt` lists, graphmill not among it. Without names, the 23 exports that the tables show. A name may
carry the options as suffixes, in this order: `resnet50_dyn_batch8_dynamo`. Each export is made in a process of its own; one that
fails is told and the others go on. `exports.json` in the folder describes what there is: hashes, opsets, inputs, operators, FLOPs.
All 23 take 4 GB; `--list` names them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import realset

DEFAULT = [
    *("mlp64", "dlrm", "lstm_tagger", "gru_tagger", "resnet18", "resnet50", "resnet50_dyn", "mobilenetv2", "mobilenetv3_small"),
    *("efficientnet_b0", "convnext_tiny", "vit_b16", "unet", "yolov8n", "bert_base", "bert_base_dyn", "distilbert"),
    *("gpt2", "gpt2_kv", "whisper_enc", "whisper_dec", "t5_enc", "t5_dec"),
]
MANIFEST = "exports.json"


@dataclass(frozen=True)
class Variant:
    """What to export: an architecture, its batch size, symbolic batches and lengths, and by which of torch's two exporters."""

    name: str
    batch: int = 1
    dynamic: bool = False
    dynamo: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant:
        name, dyn, batch, dynamo = re.fullmatch(r"(.+?)(_dyn)?(?:_batch(\d+))?(_dynamo)?", text).groups()  # type: ignore[union-attr]
        return cls(name, int(batch or 1), bool(dyn), bool(dynamo))

    def __str__(self) -> str:
        batch = f"_batch{self.batch}" if self.batch != 1 else ""
        return f"{self.name}{'_dyn' * self.dynamic}{batch}{'_dynamo' * self.dynamo}"


def folder() -> Path:
    """Where exports are kept, if nothing else is said."""
    return realset.folder() / "exports"


def manifest(at: Path) -> list[dict[str, Any]]:
    """The exports in a folder, in the order of DEFAULT, others after these."""
    path = at / MANIFEST
    found = json.loads(path.read_text()) if path.exists() else []
    order = {name: i for i, name in enumerate(DEFAULT)}
    return sorted(found, key=lambda e: (order.get(e["name"], len(order)), e["name"]))


# ---- in the process of one export -------------------------------------------------------------------------------


def export(variant: Variant, at: Path) -> dict[str, Any]:
    """Writes one export; its entry for the manifest, in the form of `models/real.json`."""
    import architectures
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    m = architectures.build(variant.name, variant.batch)
    axes = m.dynamic if variant.dynamic else m.always
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        m.module(*m.inputs.values())
    with torch.no_grad():
        if (change := architectures.change(m)) < 0.01:
            raise ValueError(f"{variant}: its weights let no signal through: other inputs change the output by {change:.1g}")
    path = at / f"{variant}.onnx"
    with tempfile.TemporaryDirectory(dir=at) as scratch:
        made = Path(scratch) / path.name
        with torch.no_grad():
            _write(variant, m, axes, made)
        os.replace(made, path)
    return entry(variant, path, m, axes, flops.get_total_flops())


def _write(variant: Variant, m: Any, axes: dict[str, dict[int, str]], path: Path) -> None:
    import architectures
    import torch

    if variant.dynamo and variant.dynamic and variant.batch == 1:
        m = architectures.build(variant.name, 2)  # torch.export takes a size of 1 for a constant
    names, inputs = list(m.inputs), tuple(m.inputs.values())
    if not variant.dynamo:
        torch.onnx.export(m.module, inputs, str(path), input_names=names, dynamic_axes=axes, dynamo=False, opset_version=17)
        return
    shapes: Any = tuple({a: torch.export.Dim(s, min=2, max=4096) for a, s in axes.get(n, {}).items()} for n in names)
    if m.module.__class__.__name__ == "Wrap":
        shapes = (shapes,)  # its forward takes *args: one parameter
    torch.onnx.export(m.module, inputs, str(path), input_names=names, dynamic_shapes=shapes if any(axes) else None, dynamo=True,
                      external_data=False, opset_version=20)  # fmt: skip


def entry(variant: Variant, path: Path, m: Any, axes: dict[str, dict[int, str]], flops: int) -> dict[str, Any]:
    import onnx
    import torch

    model = onnx.load(path)
    initializers = {i.name for i in model.graph.initializer}
    return {
        "name": str(variant),
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "mb": round(path.stat().st_size / 1e6, 2),
        "exporter": f"torch {torch.__version__}, {'dynamo' if variant.dynamo else 'TorchScript'}",
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "inputs": [[i.name, onnx.TensorProto.DataType.Name(i.type.tensor_type.elem_type),
                    [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]]
                   for i in model.graph.input if i.name not in initializers],
        "feed": {name: feed(name, x) for name, x in m.inputs.items()},
        "ops": dict(Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph.node).most_common()),
        "parameters": sum(p.numel() for p in m.module.parameters()),
        "gflops": round(flops / 1e9, 4),
    }  # fmt: skip


def feed(name: str, x: Any) -> dict[str, Any]:
    """What to feed an input, as `realset.make` reads it."""
    import architectures

    shape = list(x.shape)
    if x.dtype.is_floating_point:
        return {"kind": "float", "shape": shape, "lo": -1.7, "hi": 1.7}  # the spread of a normal distribution
    if "mask" in name:
        return {"kind": "const", "value": 1, "shape": shape}
    return {"kind": "int", "hi": architectures.VOCABULARY, "shape": shape}


# ---- all exports ------------------------------------------------------------------------------------------------


def add(at: Path, made: dict[str, Any]) -> None:
    """Puts an entry into the manifest, in the place of an older one."""
    others = [e for e in manifest(at) if e["name"] != made["name"]]
    with tempfile.NamedTemporaryFile("w", dir=at, delete=False) as t:
        t.write(json.dumps([*others, made], indent=1))
    os.replace(t.name, at / MANIFEST)


def main(arguments: list[str] | None = None) -> int:
    """The number of exports that failed."""
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--folder", type=Path, default=folder())
    ap.add_argument("--batch", type=int, help="the batch size")
    ap.add_argument("--dynamic", action="store_true", help="symbolic batches and lengths")
    ap.add_argument("--dynamo", action="store_true", help="torch's newer exporter, at opset 20")
    ap.add_argument("--list", action="store_true", help="print the names of the 23 exports")
    ap.add_argument("--here", action="store_true", help="in this process, with the entry as output (what the command itself calls)")
    a = ap.parse_args(arguments)
    if a.list:
        print("\n".join(DEFAULT))
        return 0
    variants = [Variant.parse(n) for n in a.names or DEFAULT]
    variants = [replace(v, batch=a.batch or v.batch, dynamic=a.dynamic or v.dynamic, dynamo=a.dynamo or v.dynamo) for v in variants]
    a.folder.mkdir(parents=True, exist_ok=True)
    if a.here:
        print(json.dumps(export(variants[0], a.folder)))
        return 0
    return sum(not _made(v, a.folder) for v in dict.fromkeys(variants))


def _made(variant: Variant, at: Path) -> bool:
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", __file__, "--here", "--folder", str(at), str(variant)]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        print(f"{variant!s:24} FAILED after {seconds:.0f} s\n{done.stderr.strip()[-2000:]}", flush=True)
        return False
    made = json.loads(done.stdout.splitlines()[-1])
    add(at, made)
    print(f"{variant!s:24} {seconds:.0f} s, {sum(made['ops'].values())} nodes, {made['mb']} MB, {made['gflops']} GFLOP", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(min(main(), 1))
