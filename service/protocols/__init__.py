"""Protocols of other servers, as translations in front of and behind the prediction pipeline."""
