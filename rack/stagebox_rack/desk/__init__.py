"""A module on a desk: run by the rack's own host on a file or a made signal, measured, without a mixer or a bus."""
