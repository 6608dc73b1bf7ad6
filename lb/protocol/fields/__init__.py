"""What stands in a body: found without parsing all of it, and as the engine takes it. Pure."""
