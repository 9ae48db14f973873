#!lua flags=allow-oom
-- Removes a connection from its node's roster, and its alias when that is still its own.
-- KEYS: roster (hash), alias or the roster again
-- ARGV: session, "alias" or ""
-- Returns: 1
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == 'alias' and redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
