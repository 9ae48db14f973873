#!lua flags=allow-oom
-- Adds or replaces a connection in its node's roster, its alias, and the routes to its node.
-- KEYS: roster (hash), alias or the roster again, previous alias or the roster again, then route sets
-- ARGV: session, roster value (JSON), node, "alias" or "", "previous" or ""
-- Returns: 1
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[5] == 'previous' and redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
if ARGV[4] == 'alias' then redis.call('SET', KEYS[2], ARGV[1]) end
for k = 4, #KEYS do redis.call('SADD', KEYS[k], ARGV[3]) end
return 1
