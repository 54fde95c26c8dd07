"""The rack's audio: sources into rings, meters and monitor packets out of them.

Capture runs in its own threads and only copies; all arithmetic happens in one DSP thread a source;
nothing here knows the bus, the disk or the configuration.
"""
