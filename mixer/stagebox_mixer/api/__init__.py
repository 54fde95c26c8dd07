"""The HTTPS API: enrollment for racks, administration for people with a client certificate."""
