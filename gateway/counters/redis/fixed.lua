local Fixed = {}
ALGORITHMS.f = Fixed

function Fixed.load(state)
  return load_flat(state, 'F', 15, function(value, at)
    local seconds, opened, held = unpack('>I4I7I4', value, at)
    return { seconds = seconds, a = opened, held = held }
  end)
end

local function save_fixed(state)
  save_flat(state, 'F', function(record)
    return pack('>I4I7I4', record.seconds, record.a, record.held)
  end)
end

function Fixed.settle(state)
  for seconds, record in pairs(state.records) do
    if record.a + seconds * SECOND <= now then
      state.records[seconds] = nil
    end
  end
end

function Fixed.admits(state)
  local room = true
  for _, window in ipairs(state.windows) do
    local record = state.records[window.seconds]
    room = room and (not record or record.held < window.limit)
  end
  return room
end

function Fixed.look(state, answer)
  for _, window in ipairs(state.windows) do
    local record = state.records[window.seconds]
    answer[#answer + 1] = max(0, window.limit - (record and record.held or 0))
    answer[#answer + 1] = record and record.a + window.length - now or 0
  end
end

function Fixed.count(state, answer)
  for _, window in ipairs(state.windows) do
    local record = state.records[window.seconds] or { seconds = window.seconds, a = now, held = 0 }
    record.held = record.held + 1
    state.records[window.seconds] = record
  end
  Fixed.look(state, answer)
  save_fixed(state)
end
