#!lua flags=allow-oom
-- Makes the consumer group of partitions that have none. From 0, not from the end: jobs may have come before the first worker.
-- KEYS: in of each partition
-- ARGV: group
-- Returns: for each key "", or the error, as for one that is not a stream
local errors = {}
for k = 1, #KEYS do
  local answer = redis.pcall('XGROUP', 'CREATE', KEYS[k], ARGV[1], '0', 'MKSTREAM')
  local is_there = answer.err and string.find(answer.err, 'BUSYGROUP', 1, true)
  errors[k] = not is_there and answer.err or ''
end
return errors
