"""Jobs (`config.jobs`), seen from who has them done: in the command line's own process or by the supervisor."""
