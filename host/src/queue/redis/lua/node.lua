#!lua flags=allow-oom
-- Renews a node's lease; makes its stream when it is not there.
-- KEYS: nodes (zset, lease ends in ms), out (stream), roster (hash)
-- ARGV: node, lease in ms, time to live of the roster in ms
-- Returns: {1 when the stream was there and 0 when it was made, its last generated id}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Nodes that have been gone for a day leave nothing behind that needs their name.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
local there = redis.call('EXISTS', KEYS[2])
if there == 0 then
  local id = redis.call('XADD', KEYS[2], '*', 'open', '1')
  redis.call('XDEL', KEYS[2], id)
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local info = redis.call('XINFO', 'STREAM', KEYS[2])
local last = '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
return {there, last}
