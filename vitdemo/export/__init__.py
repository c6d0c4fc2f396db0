"""Results as JSON, arrays and archives, and code snippets that reproduce them."""
