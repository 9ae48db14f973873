#!lua flags=allow-oom
-- Removes a partition's stream of jobs, with its group, and what is known of those that ran alone, unless jobs came meanwhile.
-- KEYS: in (stream), suspects (hash)
-- Returns: 1 when it is gone, 0 when it has jobs
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XLEN', KEYS[1]) > 0 then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
