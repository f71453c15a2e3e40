"""DNS for the whole process: what plugins get as `app.resolver`.

A package because its parts are loaded at different times: dnspython (wire.py) only with the first question.
"""

from relayproxy.resolver.budget import Budgeted
from relayproxy.resolver.cache import CachingResolver

__all__ = ["Budgeted", "CachingResolver"]
