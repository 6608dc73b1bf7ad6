"""What is to run, by revision."""
