"""Who listens to which rack: leases of people and tools, gathered into one lease a bus at the rack."""
