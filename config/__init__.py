"""Settings and the contract between the processes. Nothing here starts, connects or serves anything."""
