"""Floor 1: the grammar of the wire, as pure functions and small state machines.

Nothing here knows a socket, a file, a clock or a loop.
"""
