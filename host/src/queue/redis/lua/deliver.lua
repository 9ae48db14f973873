#!lua flags=allow-oom
-- Adds an entry to a node's stream although Redis is full: what workers send is what lets it drain.
-- KEYS: out (stream)
-- ARGV: field and value pairs
-- Returns: the entry's id, nil when the node is gone
return redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(ARGV))
