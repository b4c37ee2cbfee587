-- The arithmetic of every window, over whole numbers alone: the same as gateway/counters/windows.py and sliding.py.
--
-- KEYS are the identities, one a demand.  ARGV[1] is empty (the time is this server's own) or, in tests, the time;
-- ARGV[2] is for undo.lua; then each demand in turn: "s" (sliding-window), "f" (fixed-window) or "t" (token-bucket),
-- how many windows, and of each its limit and its length in seconds.
--
-- Everything is read before anything is written, so what cannot be read has changed nothing.  Times are microseconds,
-- and every number stays below 2^53, which Lua keeps exactly.  Time never goes back for an identity: it stands still
-- at what it has seen last.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, max, min, sub = math.floor, math.max, math.min, string.sub

local SECOND = 1000000
local ALGORITHMS = {}
local now, spare = nil, 0
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * SECOND + time[2]
else
  -- Keys expire by this server's clock, which a test's has nothing to do with.
  now, spare = tonumber(ARGV[1]), 3600000
end

-- In how many milliseconds a key may go whose last moment counts until `last`.
local function expiry(last)
  return floor((last - now) / 1000) + 1 + spare
end

