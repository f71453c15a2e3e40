"""relayproxy: an SMTP proxy with a pipeline of plugins.

What people outside import lives beside this file: `api` (everything a plugin needs), `hookspecs` (the hooks,
with their documentation) and `testing` (what a plugin's tests need).
"""

__version__ = "0.1.0"
