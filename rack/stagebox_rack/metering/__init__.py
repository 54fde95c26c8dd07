"""Meters: what is measured of audio, as pure arithmetic on blocks; nothing here knows a thread, a device or a clock."""
