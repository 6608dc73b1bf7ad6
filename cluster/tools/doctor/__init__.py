"""What of this machine and set-up keeps a cluster from running: gathered apart, judged by pure functions."""
