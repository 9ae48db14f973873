#!lua flags=allow-oom
-- Takes a node out: its lease, stream and roster. With connections in the roster it is left as a dead node, to be adopted at once.
-- KEYS: nodes (zset), out (stream), roster (hash), cleaners (hash), gone (string)
-- ARGV: node
-- Returns: connections left; -1 when the node is a cleaner's already
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[5]) == 1 then return -1 end
redis.call('UNLINK', KEYS[2])
local left = redis.call('HLEN', KEYS[3])
if left == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
end
return left
