#!lua flags=allow-oom
-- Drops routes to a node that it has not needed for a while.
-- KEYS: route sets
-- ARGV: node
-- Returns: 1
for k = 1, #KEYS do redis.call('SREM', KEYS[k], ARGV[1]) end
return 1
