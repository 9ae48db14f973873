#!lua flags=allow-oom
-- Moves scheduled jobs to another partition as they are, each in one step.
-- KEYS: later it is in (zset), later it belongs in
-- ARGV: members
-- Returns: how many were moved
local moved = 0
for i = 1, #ARGV do
  local due = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if due then
    redis.call('ZADD', KEYS[2], due, ARGV[i])
    redis.call('ZREM', KEYS[1], ARGV[i])
    moved = moved + 1
  end
end
return moved
