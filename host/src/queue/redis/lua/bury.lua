#!lua flags=allow-oom
-- Removes a dead node's connection: from the roster, its alias when that is still its own, and the node from the routes it needed.
-- KEYS: roster (hash), alias or the roster again, then route sets
-- ARGV: session, "alias" or "", node
-- Returns: 1
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == 'alias' and redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
for k = 3, #KEYS do redis.call('SREM', KEYS[k], ARGV[3]) end
return 1
