"""What is kept and told of requests: decisions, access lines, spans, losses."""
