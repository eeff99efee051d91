"""Fixtures of the tests of the prediction pipeline."""

from hostile_images import hostile_codec

__all__ = ["hostile_codec"]
