"""The demo: a throw-away cluster on this machine, its meter bridge, and an account of everything counted.

It uses the same commands an operator types and reads the bus as any subscriber would. Nothing in the four
distributions imports it.
"""
