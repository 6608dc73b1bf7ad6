"""Which pods there are, from Kubernetes; an agent in each starts its worker. Kubernetes' client is imported when a
cluster uses this driver, and by nobody else."""
