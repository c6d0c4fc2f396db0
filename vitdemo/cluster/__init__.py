"""Models on Ray Serve, as far as it can be had without loading torch: placement, the bridge to the cluster, and the link to it."""
