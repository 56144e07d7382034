"""Training a detector: objects of a crop, which anchors and boxes should find them, and the losses."""
