"""The links to the supervisor and to the other balancers of the cluster."""
