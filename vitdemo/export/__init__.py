"""Results as JSON, arrays, archives, and calls that reproduce them."""
