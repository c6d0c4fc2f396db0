"""Many users at once for many minutes, and whether every answer is theirs, right, and given once: `python -m scripts.soak`."""
