"""Getting a new certificate and passport before the old ones end: when, how, by whom, and what is believed of it."""
