#!lua flags=allow-oom
-- Removes the consumers of a partition that have nothing pending. In one step: what a removed consumer had pending would be lost.
-- KEYS: in (stream)
-- ARGV: group, consumer that stays
-- Returns: how many were removed
local removed = 0
for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local fact = {}
  for i = 1, #facts, 2 do fact[facts[i]] = facts[i + 1] end
  if fact.pending == 0 and fact.name ~= ARGV[2] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fact.name)
    removed = removed + 1
  end
end
return removed
