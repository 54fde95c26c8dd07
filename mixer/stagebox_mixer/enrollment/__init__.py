"""Enrollment: from a one-time token and a CSR to a certificate and a passport."""
