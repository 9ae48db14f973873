#!lua flags=allow-oom
-- Renews a cleaner's claim on a dead node; with the length 0 another may take it at once, while the node stays lost to its process.
-- KEYS: cleaners (hash, node -> "cleaner until_ms")
-- ARGV: node, cleaner, length of a claim in ms
-- Returns: 1; 0 when the claim is not the cleaner's any more
local cleaner = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) ')
if cleaner ~= ARGV[2] then return 0 end
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], cleaner .. ' ' .. string.format('%.0f', till))
return 1
