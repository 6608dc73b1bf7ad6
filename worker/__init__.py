"""Everything about one worker process: what to start, how to start and end it, how to tell that it is well."""
