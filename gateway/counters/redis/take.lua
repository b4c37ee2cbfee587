-- Admit and count one request in all windows of all demands, or in none.
-- Answers 1 or 0, the moment at which it was counted, and of each window what is left and when its count next falls.

local answer, admitted = { 1, now }, true
for _, demand in ipairs(demands) do
  -- All are asked, since a refusal tells the state of each.
  admitted = demand.algorithm.admits(demand) and admitted
end
for _, demand in ipairs(demands) do
  if admitted then
    demand.algorithm.count(demand, answer)
  else
    demand.algorithm.look(demand, answer)
  end
end
if not admitted then
  answer[1] = 0
end
return answer
