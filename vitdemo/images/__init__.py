"""From a file, URL or array to an upright RGB photo within the limits."""
