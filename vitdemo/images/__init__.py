"""Decoding of files, URLs and arrays to upright RGB photos within the limits."""
