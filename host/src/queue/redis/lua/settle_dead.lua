#!lua flags=allow-oom
-- Puts the dead letters that were gathered for a partition in their place, once nothing is left there.
-- KEYS: dead (stream), what was gathered (stream)
-- Returns: 1 when there were any
if redis.call('XLEN', KEYS[1]) > 0 then return redis.error_reply('ERR ' .. KEYS[1] .. ' is not empty') end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('RENAME', KEYS[2], KEYS[1])
return 1
