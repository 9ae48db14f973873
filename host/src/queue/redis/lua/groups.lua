#!lua flags=allow-oom
-- Makes the consumer group of partitions that have none. From 0, not from the end: jobs may have come before the first worker.
-- KEYS: in of each partition
-- ARGV: group
-- Returns: 1; an error when a key is not a stream
for k = 1, #KEYS do
  local answer = redis.pcall('XGROUP', 'CREATE', KEYS[k], ARGV[1], '0', 'MKSTREAM')
  if answer.err and not string.find(answer.err, 'BUSYGROUP', 1, true) then return answer end
end
return 1
