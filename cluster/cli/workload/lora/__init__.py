"""`lora`: adapters, from where they come from to a cluster that serves them."""
