"""Bounces that come in: read from octets, tied to the mail that they are about, and classified.

A pure floor: no socket, no clock, no event loop, no YAML. It takes octets, a time and plain data.
"""
