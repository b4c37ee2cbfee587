-- How each algorithm takes back one request that was counted at `when`; called after `admits`.

function Sliding.undo(log, when)
  local position = advance(log, log.start, when - 1)
  if position >= log.finish or moment(log, position) ~= when then
    return
  end
  for _, window in ipairs(log.windows) do
    if window.cursor > position then
      window.cursor = window.cursor - 1
    end
  end
  if log.text then
    local at = log.offset + position * MOMENT
    log.text = sub(log.text, 1, at - 1) .. sub(log.text, at + MOMENT)
    log.finish = log.finish - 1
    if log.finish == 0 then
      call('DEL', log.key)
    else
      local top = 'L' .. pack('>I4I7', log.horizon, log.lapse)
      call('SET', log.key, top .. sub(log.text, log.offset), 'KEEPTTL')
    end
  else
    local later = position + 1 < log.finish and moments(log, position + 1) or ''
    local at = position % log.size
    local before = min(#later / MOMENT, log.size - at)
    if before > 0 then
      call('SETRANGE', log.key, HEAD + at * MOMENT, sub(later, 1, before * MOMENT))
      if before < #later / MOMENT then
        call('SETRANGE', log.key, HEAD, sub(later, before * MOMENT + 1))
      end
    end
    log.finish, log.chunk = log.finish - 1, nil
  end
  for _, window in ipairs(log.windows) do
    window.held = log.finish - window.cursor
    window.first = window.held > 0 and moment(log, window.cursor) or 0
  end
  if not log.text then
    call('SETRANGE', log.key, 0, head(log))
  end
end

function Fixed.undo(state, when)
  for _, window in ipairs(state.windows) do
    local record = state.records[window.seconds]
    if record and record.a <= when then
      record.held = record.held - 1
      if record.held == 0 then
        state.records[window.seconds] = nil
      elseif record.a == when then
        -- What came later would have opened the window later: not sooner than now, which is stricter.
        record.a = now
      end
    end
  end
  save_fixed(state)
end

function Bucket.undo(state, when)
  for _, window in ipairs(state.windows) do
    local record = state.records[window.seconds]
    if record then
      local back, back_part = 1, 0
      if record.a ~= when then
        -- Others have taken since, perhaps from a bucket that was full again: give back what surely has not flowed
        -- back by itself.
        local gone = max(0, now - when)
        local whole, part = 1, 0
        if gone < window.length then
          whole, part = refill(gone, window.limit, window.length)
        end
        back, back_part = less(1, 0, whole, part, window.length)
      end
      window.whole, window.part = less(window.whole, window.part, back, back_part, window.length)
      set_bucket(state, window, now)
    end
  end
  save_buckets(state)
end
