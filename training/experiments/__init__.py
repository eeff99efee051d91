"""The residual-learning experiments.

Each experiment `NAME` has up to four modules:

- `NAME`: trains the networks, runs the measurements and builds the report.
- `NAME_measurements`: measures trained networks.
- `NAME_figures`: figures and tables of the report.
- `NAME_verdicts`: claim, method and verdicts of the report.

`degradation` and `shortcuts` share `error_measurements` and `error_figures`.
"""
