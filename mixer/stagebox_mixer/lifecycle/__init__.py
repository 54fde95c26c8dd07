"""The life of a rack's identity: enroll, approve, renew, suspend, rotate, remove."""
