"""What outlives the supervisor."""
