"""Admission: who may connect to the bus, decided for every connection from the registry."""
