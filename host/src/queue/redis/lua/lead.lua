#!lua flags=allow-oom
-- Gives one node at a time what only one may do, and prolongs it for the one that has it.
-- KEYS: leader (string, the node; gone when its time has passed)
-- ARGV: node, time in ms
-- Returns: 1 when the node has it now, else 0
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
