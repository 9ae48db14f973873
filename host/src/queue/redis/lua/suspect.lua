#!lua flags=allow-oom
-- Counts a start of a suspect, which runs alone; or takes the count back, when the start came to nothing but nobody crashed.
-- KEYS: suspects (hash, entry -> starts that no end followed)
-- ARGV: entry, 1 or -1
-- Returns: the count
local count = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
if count <= 0 then redis.call('HDEL', KEYS[1], ARGV[1]) end
return count
