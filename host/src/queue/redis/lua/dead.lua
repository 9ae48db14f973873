#!lua flags=allow-oom
-- Sets a job aside and settles the entry it came from, if any, in one step.
-- KEYS: dead (stream), in (stream)
-- ARGV: most entries kept, ms an entry is kept, entry or empty, group, then field and value pairs
-- Returns: 1
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(fields))
local time = redis.call('TIME')
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[2]))))
if ARGV[3] ~= '' then
  redis.call('XDEL', KEYS[2], ARGV[3])
  redis.call('XACK', KEYS[2], ARGV[4], ARGV[3])
end
return 1
