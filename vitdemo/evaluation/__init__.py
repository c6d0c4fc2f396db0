"""How good, how faithful and how fast models and maps are."""
