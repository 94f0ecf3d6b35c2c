"""The operators, one file a family. Importing this package registers all of them."""

from __future__ import annotations

from importlib import import_module

# Every module that declares operators; a test holds this list against the files.
FAMILIES = (
    "activation", "arrange", "attention", "cast", "categories", "classic", "common", "compare", "contents", "contrib_attention",
    "contrib_other", "contrib_quant", "contrib_text", "control", "conv", "conv_other", "fill", "forest", "fused", "image",
    "index", "layout", "linalg", "loss", "math", "ml", "move", "norm", "pool", "quant", "reduce", "regex", "resize", "rng",
    "rnn", "roi", "sampling", "selection", "sequence", "shape", "signal", "softmax", "text", "trees", "windows",
)  # fmt: skip

for _name in FAMILIES:
    import_module(f".{_name}", __name__)
