"""Where peers differ from ours about resizing."""

DIFFERENCES = {
    ("reference", "resize", 6): "it cannot take negative axes",
    ("reference", "resize", 13): "it has no strings",
}
