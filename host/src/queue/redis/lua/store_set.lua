#!lua
-- Sets a value only when the present one is as expected; always with a time to live.
-- KEYS: the value
-- ARGV: "absent" or "is", expected value, new value, time to live in ms (0 = none)
-- Returns: 1 when it was set, 0 when not; an error for a value of another kind
local present = redis.call('GET', KEYS[1])
if ARGV[1] == 'absent' then
  if present then return 0 end
elseif present ~= ARGV[2] then
  return 0
end
if ARGV[4] == '0' then
  redis.call('SET', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
