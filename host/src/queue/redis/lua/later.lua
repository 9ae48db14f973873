#!lua flags=allow-oom
-- Puts a job back for later, by Redis's clock, and settles the entry it came from. In one step: a job is never in neither place.
-- KEYS: later (zset, due time in ms), in (stream)
-- ARGV: delay in ms, member (a JSON list: the job's fields and something unique), entry or "", group
-- Returns: 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[2])
if ARGV[3] ~= '' then
  redis.call('XDEL', KEYS[2], ARGV[3])
  redis.call('XACK', KEYS[2], ARGV[4], ARGV[3])
end
return 1
