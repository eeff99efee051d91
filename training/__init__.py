"""From data to a published version: train, evaluate, calibrate, export, check, publish.

Each step is one function and one command. It writes one file into the run's directory and reads
only files of earlier steps, so that a run can be resumed and inspected at any point. The package
imports `model_store`, never `service`.
"""
