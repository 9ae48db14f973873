#!lua
-- Adds to an integer; one that is not there counts as 0.
-- KEYS: the value
-- ARGV: summand, time to live in ms of a new value (0 = none)
-- Returns: the sum as text (Lua's numbers lose integers over 2^53); an error for a value of another kind
local is_new = redis.call('EXISTS', KEYS[1]) == 0
redis.call('INCRBY', KEYS[1], ARGV[1])
if is_new and ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
