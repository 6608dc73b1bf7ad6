"""Starting and stopping a cluster, and what is settled before it runs."""
