"""What the server does in one step: the scripts behind renewing, holding, leases and telling generations apart.

Each works on the keys of one slot, and each may run on a server that has run out of memory: an invalidation must never
be refused for want of the few bytes that it takes. But for one: where nothing can be stored, nobody should get a lease.

A marker is a string, its id as a decimal number. While a writer holds it, a sorted set of holders and the times (ms, by
the server's clock) at which their holds run out stands in its place: `MGET` answers nil for that, so readers see a
missing marker, which matches nothing, without knowing of holds at all. Nor does a renewal look for them: `SET` with
`GET` is refused where there is no string.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from typing import Final

_HEAD: Final = """#!lua flags=allow-oom
local function held(key)
  if redis.call('TYPE', key).ok ~= 'zset' then
    return false
  end
  local now = redis.call('TIME')
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now[1] * 1000 + math.floor(now[2] / 1000))
  return redis.call('EXISTS', key) == 1
end
local function signal(key)
  redis.call('SET', key, '', 'PX', 1000)
  redis.call('DEL', key)
end
local function renew(marker, id, life)
  if type(redis.pcall('SET', marker, id, 'KEEPTTL', 'GET')) == 'table' then
    if held(marker) then
      return 0
    end
    redis.call('SET', marker, id, 'KEEPTTL')
  end
  if redis.call('PTTL', marker) < tonumber(life) then
    redis.call('PEXPIRE', marker, life)
  end
  return 1
end
"""

RENEW: Final = (
    _HEAD
    + """renew(KEYS[1], ARGV[1], ARGV[2])
signal(KEYS[2])
return 1
"""
)
"""Gives a marker a new id, never shortening its life, and signals it; one that is held stays held."""

APPEND: Final = (
    _HEAD
    + """renew(KEYS[1], ARGV[1], ARGV[2])
signal(KEYS[2])
redis.call('LPUSH', KEYS[3], unpack(ARGV, 4))
redis.call('LTRIM', KEYS[3], 0, ARGV[3])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
return 1
"""
)
"""Appends rules to the log and moves its head to the last one."""

HOLD: Final = (
    _HEAD
    + """local had = false
if held(KEYS[1]) then
  had = redis.call('ZSCORE', KEYS[1], ARGV[1])
else
  redis.call('DEL', KEYS[1])
end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if had then
  return 1
end
signal(KEYS[2])
return 0
"""
)
"""Begins or prolongs a hold; one that is new is signalled. Answers whether the holder had it already."""

RELEASE: Final = (
    _HEAD
    + """if redis.call('TYPE', KEYS[1]).ok == 'zset' then
  redis.call('ZREM', KEYS[1], ARGV[3])
end
renew(KEYS[1], ARGV[1], ARGV[2])
signal(KEYS[2])
return 1
"""
)
"""Ends a hold and renews the marker, unless somebody else holds it."""

CAPTURE_HELD: Final = (
    _HEAD
    + """if held(KEYS[1]) then
  return false
end
local known = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
if known and known == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return ARGV[1]
end
return known or ARGV[1]
"""
)
"""Captures a marker that was found held, in case its holds have run out.

Or one that held a text that is no id, which then makes way for one, if it is still there.
"""

GENERATION: Final = (
    _HEAD
    + """local now = redis.call('TIME')[1]
local unknown = false
for i = 4, #ARGV do
  if not redis.call('ZSCORE', KEYS[3], ARGV[i]) then
    redis.call('ZADD', KEYS[3], now, ARGV[i])
    unknown = true
  end
end
if unknown then
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1025)
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  if redis.call('EXISTS', KEYS[1]) == 1 then
    renew(KEYS[1], ARGV[1], ARGV[2])
    signal(KEYS[2])
  end
end
return now - redis.call('ZSCORE', KEYS[3], ARGV[4])
"""
)
"""Takes histories into the namespace's list; one that is new there invalidates the namespace.

Answers how many seconds ago the first of them was entered.
"""

TAKE_LEASE: Final = """#!lua
local taken = redis.call('MGET', KEYS[1])[1]
local left = redis.call('PTTL', KEYS[1])
local state = string.sub(taken or 'd', 1, 1)
if not taken or taken == 'd' .. ARGV[3] or (state == 'd' and left <= tonumber(ARGV[4])) then
  redis.call('SET', KEYS[1], 'h' .. ARGV[1], 'PX', ARGV[2])
  return false
end
if state == 'h' then
  redis.call('SET', KEYS[1], 'w' .. string.sub(taken, 2), 'KEEPTTL')
end
return {taken, left}
"""
"""Takes a lease that was not free but may be by now; or notes that somebody waits, and answers who has it.

A lease is a string: `h` and its holder; `w` where somebody waits; `d` for a moment after its holder has stored a value,
for whoever looked for one before that and asks only now. Such a one is taken by who has looked since: after an end it
was told of, or so late that little of the moment is left.
"""

KEEP_LEASE: Final = """#!lua flags=allow-oom
local taken = redis.call('MGET', KEYS[1])[1]
if taken and string.sub(taken, 1, 1) ~= 'd' and string.sub(taken, 2) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""
"""Has a lease last for another while, and answers whether it is still its holder's."""

RETURN_LEASE: Final = """#!lua flags=allow-oom
local taken = redis.call('MGET', KEYS[1])[1]
if not taken or string.sub(taken, 1, 1) == 'd' or string.sub(taken, 2) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], 'd' .. ARGV[1], 'PX', ARGV[2])
end
if string.sub(taken, 1, 1) == 'w' then
  redis.call('SET', KEYS[2], '', 'PX', 1000)
  redis.call('DEL', KEYS[2])
end
return 1
"""
"""Ends a lease unless it is another holder's, and signals that to those who wait, if there are any."""

ENLIST: Final = """
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
"""Puts a process at the head of the list of those that publish, and cuts what is old off its end."""


@cache
def digest_of(script: str) -> str:
    """Return what a server knows a script by that it has carried out before."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
