"""Series: geometry, volume and quality, when they are complete, which models they go to."""
