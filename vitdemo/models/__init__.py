"""Networks, and what runs around them: weights, pixels in, attention out."""
