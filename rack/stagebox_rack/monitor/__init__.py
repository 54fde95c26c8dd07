"""Monitor buses: what people listen to. Mixed and encoded only while somebody holds a lease on the bus."""
