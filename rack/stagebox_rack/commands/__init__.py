"""Commands from the mixer: which of them the rack obeys, that it obeys each once, and its signed acks."""
