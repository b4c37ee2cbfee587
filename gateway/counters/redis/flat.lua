-- ── fixed windows and token buckets ─────────────────────────────────────────────────────────────────
--
-- One record a window, found by its length; those that are not asked about are carried while they still count, since
-- their limits may come back.  `a` is when a fixed window opened, or a token was last taken.

local function load_flat(state, form, size, take)
  local value, newest = call('GET', state.key) or '', 0
  state.records = {}
  for at = 2, #value, size do
    local record = take(value, at)
    state.records[record.seconds] = record
    newest = max(newest, record.a)
  end
  return newest
end

local function save_flat(state, form, give)
  local parts, last = { form }, 0
  for seconds, record in pairs(state.records) do
    local gone = record.a + seconds * SECOND
    if gone > now then
      parts[#parts + 1] = give(record)
      last = max(last, gone)
    end
  end
  if last == 0 then
    call('DEL', state.key)
  else
    call('SET', state.key, table.concat(parts), 'PX', expiry(last))
  end
end

