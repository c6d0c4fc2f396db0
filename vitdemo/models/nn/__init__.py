"""Networks that transformers does not have."""
