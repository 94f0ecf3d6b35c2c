"""Where the peers are known to be wrong, or to lack a case, for data movement."""

DIFFERENCES = {
    ("ort", "center_crop_pad", 3): "its expansion does not take i32 shapes",
    ("reference", "pad", 2): "does not take negative pads",
    ("reference", "pad", 7): "fills strings with the integer 0",
    ("reference", "pad", 9): "does not take scalars",
}
