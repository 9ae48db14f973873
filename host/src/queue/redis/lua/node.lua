#!lua flags=allow-oom
-- Renews a node's lease; makes its stream when it is not there, and cuts it when the node does not keep up.
-- KEYS: nodes (zset, lease ends in ms), out (stream), roster (hash), all (stream), cleaners (hash), gone (string)
-- ARGV: node, lease in ms, time to live of the stream in ms, of the roster in ms, most entries, most bytes
-- Returns: {1 when the stream was there and 0 when it was made, its last generated id, that of `all`, entries cut off, now in ms};
--   {-1} when the node is a cleaner's, or has been cleaned up after
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 or redis.call('EXISTS', KEYS[6]) == 1 then return {-1} end
-- Nobody came for these while their rosters lasted.
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('HDEL', KEYS[5], node)
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
local there = redis.call('EXISTS', KEYS[2])
if there == 0 then
  local id = redis.call('XADD', KEYS[2], '*', 'open', '1')
  redis.call('XDEL', KEYS[2], id)
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
local cut = 0
local length = redis.call('XLEN', KEYS[2])
if length > tonumber(ARGV[5]) or redis.call('MEMORY', 'USAGE', KEYS[2]) > tonumber(ARGV[6]) then
  -- Half of it: a node that is behind for good would be cut at each renewal otherwise.
  cut = redis.call('XTRIM', KEYS[2], 'MAXLEN', math.floor(math.min(length, tonumber(ARGV[5])) / 2))
end
local function last_id(key)
  if redis.call('EXISTS', key) == 0 then return '' end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
  return ''
end
return {there, last_id(KEYS[2]), last_id(KEYS[4]), cut, now}
