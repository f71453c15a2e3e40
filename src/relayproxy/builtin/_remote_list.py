"""Looking recipients up in a list that is a network away: within a deadline, remembered for a while, never the loop's time.

Must not know which database it is, nor what follows from being on the list.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from relayproxy.api import ListFault, Suppressed, SuppressionList, Unavailable

_MOST = 20_000  # answers that are remembered

_Key = tuple[str, tuple[str, ...]]


class RemoteList:
    """Asks `store` in a thread of its own: a server that hangs takes none of those that others need.

    An answer counts for `store.remember` seconds, and a look-up may take `store.patience`.
    """

    def __init__(self, store: SuppressionList, log: logging.Logger) -> None:
        self._store = store
        self._log = log
        self._thread = ThreadPoolExecutor(1, "suppression")
        self._known: OrderedDict[_Key, tuple[float, Suppressed | None]] = OrderedDict()
        self._down = False

    async def find(self, address: str, scopes: Sequence[str], now: float) -> Suppressed | None:
        """Return why an address gets no mail of these scopes, or None. Raises Unavailable, and logs an outage once."""
        key = (address, tuple(scopes))
        at, found = self._known.get(key, (0.0, None))
        # A clock that was set back makes nothing last longer.
        if 0 <= now - at < self._store.remember:
            return found if found is None or found.expires is None or found.expires > now else None
        ask = partial(self._store.find, address, scopes, now)
        try:
            async with asyncio.timeout(self._store.patience):
                found = await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except (ListFault, TimeoutError) as error:
            if not self._down:
                self._down = True
                why = str(error) or f"no answer within {self._store.patience:g} s"
                self._log.error("recipients can't be looked up: %s", why)
            raise Unavailable("the list can't be looked at") from error
        if self._down:
            self._down = False
            self._log.warning("recipients can be looked up again")
        self._known[key] = (now, found)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Ask anew about everybody: this worker has changed the list."""
        self._known.clear()

    def close(self) -> None:
        """End the thread, once it has its answer."""
        self._thread.shutdown(wait=False, cancel_futures=True)
