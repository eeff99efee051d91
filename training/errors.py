"""Exceptions of training, all derived from `TrainingError`."""


class TrainingError(Exception):
    """Base class. The command line prints these errors in one line, without a traceback."""


class DataError(TrainingError):
    """The data is missing, unreadable or unusable for training."""


class RecipeError(TrainingError):
    """A recipe or an architecture name is unknown or has an invalid value."""


class RunError(TrainingError):
    """A run directory lacks what a step needs, or the run cannot execute here."""


class DivergedError(TrainingError):
    """The loss or a logit is NaN or infinite."""


class InterruptedRunError(TrainingError):
    """The run was stopped on request; its checkpoint is written."""


class ResumeProofError(TrainingError):
    """A killed and resumed training ended with different weights than an uninterrupted one."""


class InitialWeightsError(TrainingError):
    """The initial weights cannot be read, or belong to another network."""


class CalibrationError(TrainingError):
    """The calibration of another run cannot be used for this one."""


class ExportError(TrainingError):
    """The exported graph does not follow the contract of a version."""


class ForeignModelError(TrainingError):
    """A model to import, or a file that belongs to it, is invalid or unsupported."""


class QuantizationError(TrainingError):
    """A version cannot be converted to another precision, or its labeled images are unknown."""


class GateError(TrainingError):
    """A check failed without a waiver; nothing was published."""
