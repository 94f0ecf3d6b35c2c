"""Where peers differ from ours about attention."""

DIFFERENCES = {("reference", "attention", 8): "it rounds every step to f16"}
