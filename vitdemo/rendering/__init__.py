"""Maps and masks drawn over photos."""
