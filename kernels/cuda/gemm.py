from ..spec import Refusal


def can_fuse_epilogue(anchor, node, chain):
    return Refusal("not yet")
