-- What is missing in a bucket is `whole` tokens and `part` of one, in parts of the window's length.
local Bucket = {}
ALGORITHMS.t = Bucket

function Bucket.load(state)
  return load_flat(state, 'T', 22, function(value, at)
    local seconds, taken, whole, part = unpack('>I4I7I4I7', value, at)
    return { seconds = seconds, a = taken, whole = whole, part = part }
  end)
end

local function save_buckets(state)
  save_flat(state, 'T', function(record)
    return pack('>I4I7I4I7', record.seconds, record.a, record.whole, record.part)
  end)
end

function Bucket.settle() end

-- The tokens that flow back in `elapsed` (less than the length): whole ones and a part, exactly.
local function refill(elapsed, limit, length)
  if elapsed * limit < 9007199254740992 then
    local whole = floor(elapsed * limit / length)
    return whole, elapsed * limit - whole * length
  end
  local whole, part = 0, 0
  for shift = 28, 0, -7 do
    local value = part * 128 + elapsed * (floor(limit / 2 ^ shift) % 128)
    local more = floor(value / length)
    whole, part = whole * 128 + more, value - more * length
  end
  return whole, part
end

local function less(whole, part, minus, minus_part, length)
  whole, part = whole - minus, part - minus_part
  if part < 0 then
    whole, part = whole - 1, part + length
  end
  if whole < 0 then
    return 0, 0
  end
  return whole, part
end

local function missing(state, window)
  local record = state.records[window.seconds]
  if not record or now - record.a >= window.length then
    return 0, 0
  end
  local whole, part = record.whole, record.part
  if whole >= window.limit then
    whole, part = window.limit, 0
  end
  local back, back_part = refill(now - record.a, window.limit, window.length)
  return less(whole, part, back, back_part, window.length)
end

function Bucket.admits(state)
  local room = true
  for _, window in ipairs(state.windows) do
    window.whole, window.part = missing(state, window)
    room = room and (window.whole < window.limit - 1 or window.whole == window.limit - 1 and window.part == 0)
  end
  return room
end

function Bucket.look(state, answer)
  for _, window in ipairs(state.windows) do
    local taken = window.whole + (window.part > 0 and 1 or 0)
    local next_one = window.part > 0 and window.part or window.length
    answer[#answer + 1] = window.limit - taken
    answer[#answer + 1] = taken > 0 and floor((next_one + window.limit - 1) / window.limit) or 0
  end
end

local function set_bucket(state, window, when)
  state.records[window.seconds] = { seconds = window.seconds, a = when, whole = window.whole, part = window.part }
end

function Bucket.count(state, answer)
  for _, window in ipairs(state.windows) do
    window.whole = window.whole + 1
    set_bucket(state, window, now)
  end
  Bucket.look(state, answer)
  save_buckets(state)
end
