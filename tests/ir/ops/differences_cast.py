"""Where a peer differs from casts and dropout as the specification has them."""

DIFFERENCES = {("reference", "dropout", 6): "takes no absent operand between two present ones"}
