"""Shared state in Valkey or Redis, for proxies on several machines: the one module that imports redis.

A batch of operations is one round trip and one script, which the server runs with nothing in between. Must not be
given a cluster: the keys of a batch lie anywhere.
"""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from relayproxy.api import Unavailable
from relayproxy.model.shared import Add, Delete, Get, Operation, Put, PutNew, Take
from relayproxy.state.listing import Store
from relayproxy.state.rows import Row

PREFIX = "relayproxy:"
_CONNECTIONS = 32
_TIMEOUT = 2.0
_PAGE = 500
_GLOB = re.compile(r"([\\*?\[\]^])")

_SCRIPT = """
-- What relayproxy.state.rows says in Python. A key is a hash: n(umber), s(tamp), t(ext), e(nds).
local now = tonumber(ARGV[1])
local answers = {}
local function digits(number) return string.format('%.17g', number) end
local function current(key)
  local found = redis.call('HMGET', key, 'n', 's', 't', 'e')
  if found[4] and tonumber(found[4]) > now then return found end
end
local function keep(key, number, text, ends)
  redis.call('HSET', key, 'n', digits(number), 's', digits(now), 't', text, 'e', digits(ends))
  redis.call('PEXPIRE', key, string.format('%d', math.ceil((ends - now) * 1000) + 1000))
end
for number, operation in ipairs(cjson.decode(ARGV[2])) do
  local kind, key = operation[1], KEYS[operation[2]]
  local answer = ''
  if kind == 'take' then
    local full, order, waits, short = {}, {}, {}, false
    for place, bucket in ipairs(operation[3]) do
      local key, rate, burst, cost = KEYS[bucket[1]], bucket[2], bucket[3], bucket[4]
      local fills = burst / rate
      local at = full[key]
      if not at then
        order[#order + 1] = key
        at = tonumber(redis.call('HGET', key, 'n') or now)
        if at > now + fills + 1e-6 then at = now else at = math.max(at, now) end
      end
      at = at + cost / rate
      local wait = at - now - fills
      if wait <= 1e-6 then wait = 0 else short = true end
      waits[place] = digits(wait)
      full[key] = at
    end
    if not short then
      for _, key in ipairs(order) do keep(key, full[key], '', full[key]) end
    end
    answer = table.concat(waits, ' ')
  elseif kind == 'add' then
    local amount, ttl, half_life = operation[3], operation[4], operation[5]
    local value, row = 0, current(key)
    if row then
      value = tonumber(row[1])
      if half_life > 0 then value = value * 0.5 ^ (math.max(0, now - tonumber(row[2])) / half_life) end
    end
    if amount ~= 0 then
      value = value + amount
      keep(key, value, '', now + ttl)
    end
    answer = digits(value)
  elseif kind == 'delete' then
    redis.call('DEL', key)
  else
    local row = kind ~= 'put' and current(key)
    if row then answer = '=' .. row[3] end
    if kind == 'put' or (kind == 'new' and not row) then
      keep(key, 0, operation[3], now + operation[4])
    end
  end
  answers[number] = answer
end
return answers
"""


class ValkeyState(Store):
    """The server at `url` (redis:// or rediss://); `now` tells the time in seconds since the epoch.

    All machines must agree on the time to within the shortest time that is measured. Each waits at most `timeout`
    seconds for the server.
    """

    def __init__(
        self,
        url: str,
        now: Callable[[], float],
        *,
        login: str = "",
        password: str = "",
        timeout: float = _TIMEOUT,
    ) -> None:
        self._now = now
        secrets = {name: text for name, text in (("username", login), ("password", password)) if text}
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # A connection that the server has closed meanwhile is made again; a late answer is not waited for twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            **secrets,
        )
        self._server = Redis(connection_pool=pool)
        self._script = self._server.register_script(_SCRIPT)

    async def do(self, *operations: Operation) -> list[Any]:
        """Carry out operations by one script."""
        keys: dict[str, int] = {}
        written = [_written(operation, keys) for operation in operations]
        try:
            answers = await self._script(
                keys=[PREFIX + key for key in keys], args=[repr(self._now()), orjson.dumps(written)]
            )
        except (RedisError, OSError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        return [_read(operation, answer) for operation, answer in zip(operations, answers, strict=True)]

    async def entries(self, prefix: str = "") -> AsyncIterator[tuple[str, Row]]:
        """Yield what is kept under keys that begin with `prefix`, a page at a time, while the server serves others."""
        cursor, seen = 0, set[bytes]()
        pattern = _GLOB.sub(r"\\\1", PREFIX + prefix) + "*"
        try:
            while True:
                cursor, names = await self._server.scan(cursor, match=pattern, count=_PAGE)
                # The server may name a key twice while it makes room for others.
                fresh = [name for name in dict.fromkeys(map(_octets, names)) if name not in seen]
                seen.update(fresh)
                for name, values in zip(fresh, await self._read(fresh), strict=True):
                    row = _row(values)
                    if row is not None and row.ends > self._now():
                        yield name.decode("ascii", "replace").removeprefix(PREFIX), row
                if not cursor:
                    return
        except (RedisError, OSError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def _read(self, names: list[bytes]) -> list[list[bytes | None]]:
        async with self._server.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(name, ["n", "s", "t", "e"])
            return list(await pipe.execute())

    async def close(self) -> None:
        """Close all connections."""
        await self._server.aclose()
        await self._server.connection_pool.disconnect()


def _octets(name: bytes | str) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def _row(values: list[bytes | None]) -> Row | None:
    """Return a hash as a row; None for one that has ended meanwhile."""
    number, stamp, text, ends = values
    if number is None or stamp is None or text is None or ends is None:
        return None
    return Row(float(number), float(stamp), text.decode("utf-8", "replace"), float(ends))


def _written(operation: Operation, keys: dict[str, int]) -> list[Any]:
    """Return an operation as the script reads it; keys are numbers of KEYS, from 1."""

    def place(key: str) -> int:
        return keys.setdefault(key, len(keys) + 1)

    match operation:
        case Take(buckets):
            return ["take", 0, [[place(b.key), b.rate, b.burst, b.cost] for b in buckets]]
        case Add(key, amount, ttl, half_life):
            return ["add", place(key), amount, ttl, half_life]
        case Get(key):
            return ["get", place(key)]
        case Put(key, text, ttl):
            return ["put", place(key), text, ttl]
        case PutNew(key, text, ttl):
            return ["new", place(key), text, ttl]
        case Delete(key):
            return ["delete", place(key)]


def _read(operation: Operation, answer: bytes) -> Any:
    match operation:
        case Take():
            return [float(wait) for wait in answer.split()]
        case Add():
            return float(answer)
        case Get() | PutNew():
            return answer[1:].decode() if answer else None
        case _:
            return None
