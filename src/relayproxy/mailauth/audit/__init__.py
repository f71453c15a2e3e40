"""What a domain publishes about its mail, judged: one module for each kind of record, over answers and no I/O.

Unlike the checks of a message, which take what strangers publish as it comes, this says to its owner what is wrong
and what to publish instead.
"""
