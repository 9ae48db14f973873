#!lua flags=allow-oom
-- Puts dead letters back among the jobs, each in one step with its removal: never in both, never in neither. What is no longer there is
-- left out. On a full Redis too: it makes nothing larger.
-- KEYS: dead (stream), in (stream)
-- ARGV: how many fields a job has, their names, then for each dead letter its entry and the values
-- Returns: how many were put back
local width = tonumber(ARGV[1])
local moved = 0
for at = 2 + width, #ARGV, width + 1 do
  if #redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at], 'COUNT', 1) == 1 then
    local fields = {}
    for i = 1, width do
      fields[#fields + 1] = ARGV[1 + i]
      fields[#fields + 1] = ARGV[at + i]
    end
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    redis.call('XDEL', KEYS[1], ARGV[at])
    moved = moved + 1
  end
end
return moved
