"""Commands whose work is a job: what an adapter is made of, and what is made of it."""
