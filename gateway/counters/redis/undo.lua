-- Take back a request that take.lua counted at the moment ARGV[2], because it was refused on another server.
-- Answers as take.lua does to a refused one: what is left, as if it had never been counted.

local answer, when = { 0, now }, tonumber(ARGV[2])
for _, demand in ipairs(demands) do
  demand.algorithm.admits(demand)
  demand.algorithm.undo(demand, when)
  demand.algorithm.look(demand, answer)
end
return answer
