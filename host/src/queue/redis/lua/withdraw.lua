#!lua flags=allow-oom
-- Takes a node out: its lease, stream, roster and the routes to it.
-- KEYS: nodes (zset), out (stream), roster (hash), then route sets
-- ARGV: node
-- Returns: 1
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
for k = 4, #KEYS do redis.call('SREM', KEYS[k], ARGV[1]) end
return 1
