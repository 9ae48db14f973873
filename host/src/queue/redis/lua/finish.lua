#!lua flags=allow-oom
-- Ends a dead node whose connections have all been buried; its process, should it still be there, learns it from the mark that stays.
-- KEYS: nodes (zset), cleaners (hash, node -> "cleaner until_ms"), out (stream), roster (hash), gone (string)
-- ARGV: node, cleaner, time to live of the mark in ms
-- Returns: 1; 0 when connections are left; -1 when the claim is not the cleaner's any more
local cleaner = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%S+) ')
if cleaner ~= ARGV[2] then return -1 end
if redis.call('HLEN', KEYS[4]) > 0 then return 0 end
redis.call('SET', KEYS[5], ARGV[2], 'PX', ARGV[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3], KEYS[4])
return 1
