"""graphmill's intermediate representation: types, operators, graphs, passes. Imports numpy and ml_dtypes only."""
