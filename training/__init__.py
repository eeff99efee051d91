"""Data to a published version: train, evaluate, export, gate, publish; each step one function and one command.

Every step writes one artefact into the run's directory and reads only what the step before left, so a run can be resumed
or looked into anywhere. Imports `model_store`, never the service.
"""
