"""Going on with a broken stream on another worker."""
