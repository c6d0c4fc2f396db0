"""Networks, weight loading, preprocessing, and recording of attention."""
