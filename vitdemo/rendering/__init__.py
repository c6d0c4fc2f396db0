"""Maps and masks rendered over photos."""
