"""The operators, one file a family. Importing this package registers all of them."""

from __future__ import annotations

from importlib import import_module

# Every module that declares operators; a test holds this list against the files.
FAMILIES = (
    "activation", "arrange", "cast", "common", "compare", "contents", "control", "conv", "conv_other", "fill", "fused", "index",
    "layout", "linalg", "math", "move", "norm", "pool", "quant", "reduce", "resize", "roi", "sampling", "selection", "sequence",
    "shape", "softmax", "windows",
)  # fmt: skip

for _name in FAMILIES:
    import_module(f".{_name}", __name__)
