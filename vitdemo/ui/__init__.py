"""The page: thin over the pipeline."""
