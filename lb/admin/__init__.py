"""What the balancer answers itself: the management API, its metrics, the page."""
