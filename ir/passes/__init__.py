"""The passes. Importing this package registers them for pipeline texts."""

from . import (
    branches,
    caches,
    canonicalize,
    cleanup,
    constants,
    decompose,
    decompose_ml,
    fuse,
    layout,
    patterns,
    precision,
    projections,
    quantized,
    signature,
    transposes,
    user,
)

__all__ = [
    "branches",
    "caches",
    "canonicalize",
    "cleanup",
    "constants",
    "decompose",
    "decompose_ml",
    "fuse",
    "layout",
    "patterns",
    "precision",
    "projections",
    "quantized",
    "signature",
    "transposes",
    "user",
]
