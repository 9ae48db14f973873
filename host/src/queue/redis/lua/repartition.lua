#!lua flags=allow-oom
-- Ends a repartition: the new number of partitions counts, and servers and workers may come.
-- KEYS: cfg (hash), owners (hash)
-- ARGV: partitions, the field that says "not finished"
-- Returns: 1
redis.call('HSET', KEYS[1], 'partitions', ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], ARGV[2])
return 1
