-- ── the sliding window ──────────────────────────────────────────────────────────────────────────────
--
-- The log of an identity: the moments of the requests that were admitted, which all of its windows share.
--   digits      one moment, and in the last two digits the power of two (in seconds) for which it must be remembered:
--               a bare number, which Redis keeps without a string
--   l HORIZON MOMENT…          a few moments; the horizon (seconds) is the longest window that is asked about
--   L HORIZON LAPSE MOMENT…    the same, while the horizon is longer than what is asked about now; then it lapses
--   R HEAD RING                many: a ring of `size` moments, and in its head where each window begins
-- A moment is 7 bytes.  In a ring, positions are numbered on for ever; position p lies at p % size.

local MOMENT, FEW, HEAD, CURSORS, CHUNK = 7, 64, 160, 6, 32

local function power(seconds)
  local code, reach = 0, 1
  while reach < seconds do
    code, reach = code + 1, reach * 2
  end
  return code, reach
end

local function read_chunk(log, position)
  local at = position % log.size
  local count = min(CHUNK, log.size - at)
  log.chunk = call('GETRANGE', log.key, HEAD + at * MOMENT, HEAD + (at + count) * MOMENT - 1)
  log.from, log.to = position, position + count
end

local function moment(log, position)
  if log.text then
    return (unpack('>I7', log.text, log.offset + position * MOMENT))
  end
  if not log.chunk or position < log.from or position >= log.to then
    read_chunk(log, position)
  end
  return (unpack('>I7', log.chunk, (position - log.from) * MOMENT + 1))
end

-- The first position from `position` on whose moment is later than `gone`: by leaps, then by halves.
local function advance(log, position, gone)
  local above, step, last = position, 1, log.finish
  while above < last and moment(log, above) <= gone do
    position, above, step = above + 1, above + step, step * 2
  end
  above = min(above, last)
  while position < above do
    local middle = floor((position + above) / 2)
    if moment(log, middle) > gone then
      above = middle
    else
      position = middle + 1
    end
  end
  return position
end

local Sliding = {}
ALGORITHMS.s = Sliding

function Sliding.load(log)
  local value = call('GETRANGE', log.key, 0, 13 + FEW * MOMENT)
  local form = sub(value, 1, 1)
  log.start, log.finish, log.newest = 0, 0, 0
  if form == 'R' then
    local count, at
    log.horizon, log.lapse, log.size, log.start, log.finish, log.newest, log.expire, count, at =
      unpack('>I4I7I4I7I7I7I7I1', value, 2)
    log.known = {}
    for _ = 1, count do
      local seconds, cursor, first
      seconds, cursor, first, at = unpack('>I4I7I7', value, at)
      log.known[seconds] = { cursor, first }
    end
  elseif form == 'l' or form == 'L' then
    log.horizon, log.offset = unpack('>I4', value, 2)
    if form == 'L' then
      log.lapse, log.offset = unpack('>I7', value, log.offset)
    end
    log.text = value
    log.finish = (#value + 1 - log.offset) / MOMENT
    log.newest = moment(log, log.finish - 1)
    log.lapse = log.lapse or log.newest + log.horizon * SECOND
  elseif value ~= '' then
    local code = tonumber(sub(value, -2))
    log.newest = tonumber(sub(value, 1, -3))
    log.text, log.offset, log.finish = pack('>I7', log.newest), 1, 1
    local same, reach = power(log.longest)
    log.horizon = same == code and log.longest or max(log.longest, 2 ^ code)
    log.lapse = log.newest + log.horizon * SECOND
  end
  return log.newest
end

-- Forget what lies beyond every window; called once `now` is final.
function Sliding.settle(log)
  if log.finish > 0 and log.newest + max(log.horizon, log.longest) * SECOND <= now then
    log.text, log.size, log.known, log.chunk = nil, nil, nil, nil
    log.start, log.finish = 0, 0
  end
  if log.finish == 0 then
    log.text, log.offset = '', 1
  end
  if log.finish == 0 or log.longest >= log.horizon or now >= log.lapse then
    log.horizon = log.longest
    log.lapse = now + log.longest * SECOND
  end
end

function Sliding.admits(log)
  local room = true
  for _, window in ipairs(log.windows) do
    local known = log.known and log.known[window.seconds]
    local cursor, first = log.start, 0
    if known then
      cursor, first = known[1], known[2]
    end
    if cursor < log.finish then
      if first == 0 then
        first = moment(log, cursor)
      end
      if first + window.length <= now then
        cursor = advance(log, cursor + 1, now - window.length)
        first = cursor < log.finish and moment(log, cursor) or 0
      end
    end
    window.cursor, window.first, window.held = cursor, first, log.finish - cursor
    room = room and window.held < window.limit
  end
  return room
end

function Sliding.look(log, answer)
  for _, window in ipairs(log.windows) do
    local left, falls = window.limit - window.held, 0
    if left <= 0 then
      -- Room comes when all but `limit - 1` of them are gone.
      left, falls = 0, moment(log, log.finish - window.limit) + window.length - now
    elseif window.held > 0 then
      falls = window.first + window.length - now
    end
    answer[#answer + 1], answer[#answer + 2] = left, falls
  end
end

local function head(log)
  local cursors, count = {}, min(#log.windows, CURSORS)
  for index = 1, count do
    local window = log.windows[index]
    cursors[index] = pack('>I4I7I7', window.seconds, window.cursor, window.first)
  end
  local text = 'R'
    .. pack('>I4I7I4I7I7I7I7I1', log.horizon, log.lapse, log.size, log.start, log.finish, log.newest, log.expire, count)
    .. table.concat(cursors)
  return text .. string.rep('\0', HEAD - #text)
end

-- All that is kept from `start` on, in order.
local function moments(log, start)
  if log.text then
    return sub(log.text, log.offset + start * MOMENT)
  end
  local low, high = start % log.size, log.finish % log.size
  local function piece(from, to)
    return from < to and call('GETRANGE', log.key, HEAD + from * MOMENT, HEAD + to * MOMENT - 1) or ''
  end
  if start == log.finish then
    return ''
  elseif low < high then
    return piece(low, high)
  end
  return piece(low, log.size) .. piece(0, high)
end

-- A ring of `size` in place of what there was, `kept` in it.
local function remake(log, kept, size)
  for _, window in ipairs(log.windows) do
    window.cursor = window.cursor - log.start
  end
  log.text, log.chunk, log.size = nil, nil, size
  log.start, log.finish = 0, #kept / MOMENT
  return kept .. string.rep('\0', size * MOMENT - #kept)
end

local function larger(log, size)
  local limit = 0
  for _, window in ipairs(log.windows) do
    if window.seconds == log.longest then
      limit = max(limit, window.limit)
    end
  end
  return size >= limit and 2 * size or min(2 * size, limit)
end

function Sliding.count(log, answer)
  for _, window in ipairs(log.windows) do
    if window.held == 0 then
      window.cursor, window.first = log.finish, now
    end
    answer[#answer + 1], answer[#answer + 2] = window.limit - window.held - 1, window.first + window.length - now
  end
  local last = max(log.lapse, now + log.longest * SECOND)
  local alive = expiry(last)
  log.newest = now
  if log.text then
    local gone = advance(log, 0, now - log.horizon * SECOND)
    local held = log.finish - gone
    if held == 0 then
      call('SET', log.key, string.format('%.0f%02d', now, (power(log.horizon))), 'PX', alive)
      return
    end
    log.start = gone
    local kept = moments(log, gone)
    if held < FEW then
      local top = 'l' .. pack('>I4', log.horizon)
      if log.horizon > log.longest then
        top = 'L' .. pack('>I4I7', log.horizon, log.lapse)
      end
      call('SET', log.key, top .. kept .. pack('>I7', now), 'PX', alive)
      return
    end
    local ring = remake(log, kept .. pack('>I7', now), larger(log, FEW))
    log.expire = last
    call('SET', log.key, head(log) .. ring, 'PX', alive)
    return
  end
  if log.finish - log.start >= log.size then
    log.start = advance(log, log.start, now - log.horizon * SECOND)
    if log.finish - log.start >= log.size then
      local ring = remake(log, moments(log, log.start) .. pack('>I7', now), larger(log, log.size))
      log.expire = last
      call('SET', log.key, head(log) .. ring, 'PX', alive)
      return
    end
  end
  call('SETRANGE', log.key, HEAD + (log.finish % log.size) * MOMENT, pack('>I7', now))
  log.finish = log.finish + 1
  if log.expire < last then
    -- An eighth more, so that not every request has to say it.
    log.expire = last + floor(log.longest * SECOND / 8)
    call('PEXPIRE', log.key, expiry(log.expire))
  end
  call('SETRANGE', log.key, 0, head(log))
end
