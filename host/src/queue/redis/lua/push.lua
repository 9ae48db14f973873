#!lua
-- Pushes one message to a list of [actions], from which PHP takes, unless as many wait there as may.
-- KEYS: list
-- ARGV: most messages waiting, item
-- Returns: how many wait now; nil when it was not pushed
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
return redis.call('RPUSH', KEYS[1], ARGV[2])
