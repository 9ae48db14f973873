#!lua flags=allow-oom
-- Adds or replaces a connection in its node's roster, its alias, and the routes to its node.
-- KEYS: roster (hash), alias or the roster again, previous alias or the roster again, nodes (zset), cleaners (hash), gone (string), then route sets
-- ARGV: session, roster value (JSON), node, "alias" or "keep" (it had the alias already, and takes it from nobody) or "", "previous" or "",
--   lease in ms
-- Returns: the other session that had the alias, or ""; 0 when the node is a cleaner's, who may be past this connection already
if redis.call('HEXISTS', KEYS[5], ARGV[3]) == 1 or redis.call('EXISTS', KEYS[6]) == 1 then return 0 end
if not redis.call('ZSCORE', KEYS[4], ARGV[3]) then
  -- After a flush: no roster without a lease, or nobody would ever look for it.
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[6]), ARGV[3])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[5] == 'previous' and redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
local older = ''
if ARGV[4] == 'keep' then
  redis.call('SET', KEYS[2], ARGV[1], 'NX')
elseif ARGV[4] == 'alias' then
  older = redis.call('GET', KEYS[2]) or ''
  if older == ARGV[1] then older = '' end
  redis.call('SET', KEYS[2], ARGV[1])
end
for k = 7, #KEYS do redis.call('SADD', KEYS[k], ARGV[3]) end
return older
