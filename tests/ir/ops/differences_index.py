"""Where the peers are known to be wrong, or to lack a case, for indexing and selections."""

DIFFERENCES = {
    ("reference", "gather_elements", 0): "wants indices as large as the data on the other axes, which the specification does not",
    ("reference", "gather_elements", 1): "wants indices as large as the data on the other axes, which the specification does not",
    ("ort", "non_zero", 4): "gives one row for a scalar; the specification says none",
    ("ort", "non_zero", 5): "gives one row for a scalar; the specification says none",
    ("ort", "pad", 9): "does not take scalars",
    ("reference", "non_max_suppression", 2): "does not take left out thresholds",
    ("reference", "non_max_suppression", 5): "does not take a scalar threshold",
    ("reference", "one_hot", 1): "does not take a depth of rank 1",
    ("reference", "one_hot", 2): "does not take a depth that is no integer",
    ("reference", "one_hot", 6): "does not take strings",
}
