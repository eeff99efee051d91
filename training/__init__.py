"""Trains residual image classifiers and publishes them: from data to a sealed version.

A run is a directory. Each step is one function and one command, which reads the results of earlier
steps from it and writes its own. `run/request.py` starts a run; `steps/pipeline.py` has all steps
in order. The package imports `model_store` and never `service`.
"""

import model_store  # noqa: F401  turns off telemetry before a module imports onnxruntime or mlflow
