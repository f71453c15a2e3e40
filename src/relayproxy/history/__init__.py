"""The history: an append-only log of events in SQLite, and the questions that reports put to it.

All workers of one machine write the same file. Must never hold up or fail a message.
"""
