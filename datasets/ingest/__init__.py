"""Readers: one file per format, found by content."""
