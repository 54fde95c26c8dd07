"""Records as typed Arrow columns and back to the byte: what segments on racks and the mixer's lake are made of.

Needs pyarrow and numpy, which racks and mixers bring; nothing else in this distribution imports it.
"""
