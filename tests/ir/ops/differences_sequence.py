"""Where the peers are known to be wrong, or to lack a case, for sequences."""

DIFFERENCES = {
    ("reference", "sequence_insert", 3): "puts the tensor before the last one; position n is the end",
    ("ort", "split_to_sequence", 4): "heeds keepdims = 0 where split is 1; the specification ignores it where split is given",
}
