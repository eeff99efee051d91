"""What keeps a measurement from being made, in words for the person at the terminal."""


class MeasurementError(Exception):
    """Nothing could be measured; the message says why and what to do."""
