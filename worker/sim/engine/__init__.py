"""What the simulated worker makes: tokens in batches, adapters, and the numbers that tell of them."""
