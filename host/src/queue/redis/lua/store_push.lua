#!lua
-- Appends to a list and keeps its newest values.
-- KEYS: the list
-- ARGV: value, most values kept, time to live in ms of a new list (0 = none)
-- Returns: 1; an error for a value of another kind
local length = redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
if length == 1 and ARGV[3] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
