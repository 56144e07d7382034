"""Training: configuration, data, augmentation, targets, losses, one readable loop, and its reports."""
