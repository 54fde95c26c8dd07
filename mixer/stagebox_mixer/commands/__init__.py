"""Commands to racks: numbered, audited, signed, sent until the rack's signed ack or the command's end."""
