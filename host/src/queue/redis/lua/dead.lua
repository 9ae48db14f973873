#!lua flags=allow-oom
-- Sets a job aside and settles the entry it came from, in one step.
-- KEYS: dead (stream), in (stream)
-- ARGV: most entries kept, entry, group, then field and value pairs
-- Returns: 1
local fields = {}
for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(fields))
redis.call('XDEL', KEYS[2], ARGV[2])
redis.call('XACK', KEYS[2], ARGV[3], ARGV[2])
return 1
