"""A sealed version of a model and how to run it: manifest, store, aliases, preprocessing, session.

`training` publishes through this package and `service` serves through it, so both compute the same
answer from the same bytes. It imports neither of them, no torch and no web framework.

Importing it turns off the telemetry of dependencies. `service` and `training` import it first.
"""

import os

__version__ = "0.1.0"
"""The version of the project, as in `pyproject.toml`."""

# Without these, ONNX Runtime 1.32 writes a device id and an event database into the user's cache
# directory and contacts a host of Microsoft, and MLflow contacts one of Databricks. Both read the
# variables when they are imported. A user who sets them keeps that value.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
