"""What a store of the shared state can do for an admin beyond what plugins need: show what it keeps.

Must not be used on the mail path: it reads everything.
"""

from collections.abc import AsyncIterator

from relayproxy.api import SharedState
from relayproxy.state.rows import Row


class Store(SharedState):
    """A place where shared state is kept."""

    def entries(self, prefix: str = "") -> AsyncIterator[tuple[str, Row]]:
        """Yield all that is kept under keys that begin with `prefix`, in no order; what has ended is left out.

        What others write meanwhile may be there or not. Raises Unavailable when the store does not answer.
        """
        raise NotImplementedError
