"""The passes. Importing this package registers them for pipeline texts."""

from . import canonicalize, cleanup, constants, decompose, decompose_ml, fuse, layout, patterns, transposes, user

__all__ = ["canonicalize", "cleanup", "constants", "decompose", "decompose_ml", "fuse", "layout", "patterns", "transposes", "user"]
