"""Models on Ray Serve, as far as that needs no torch: placement, the bridge to the cluster, and the link to the bridge."""
