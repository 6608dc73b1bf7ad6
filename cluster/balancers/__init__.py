"""The balancer processes: started, replaced, spoken to as one."""
