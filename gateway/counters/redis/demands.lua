-- What is demanded, read from the arguments, and what is known of it, read from the keys.

local demands = {}

do
  local at, newest = 3, 0
  for index, key in ipairs(KEYS) do
    local demand = { key = key, algorithm = ALGORITHMS[ARGV[at]], windows = {}, longest = 0 }
    for place = 1, tonumber(ARGV[at + 1]) do
      local limit, seconds = tonumber(ARGV[at + 2 * place]), tonumber(ARGV[at + 2 * place + 1])
      demand.windows[place] = { limit = limit, seconds = seconds, length = seconds * SECOND }
      demand.longest = max(demand.longest, seconds)
    end
    at = at + 2 + 2 * #demand.windows
    demands[index] = demand
    newest = max(newest, demand.algorithm.load(demand))
  end
  now = max(now, newest)
  for _, demand in ipairs(demands) do
    demand.algorithm.settle(demand)
  end
end
