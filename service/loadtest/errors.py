"""The error of a measurement that cannot be made."""


class MeasurementError(Exception):
    """Nothing could be measured. The message says why and what to do."""
