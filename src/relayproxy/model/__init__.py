"""Floor 0: the values that flow through the program.

Frozen, slotted, and ignorant: nothing here knows a socket, a file, a clock or a configuration.
"""
