#!lua flags=allow-oom
-- Claims one node whose lease has ended, unless another cleaner has it. From then on the node is lost to its process, for good.
-- KEYS: nodes (zset, lease ends in ms), cleaners (hash, node -> "cleaner until_ms")
-- ARGV: cleaner, length of a claim in ms, the last time in ms (of this server's clock) at which this may run
-- Returns: {node or "", ms until the next lease or claim ends (-1 = there is none)}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Sent before a stall and run after it, when all leases have ended and none could be renewed.
if now > tonumber(ARGV[3]) then return {'', 0} end
local soonest = -1
local function ends_at(moment)
  local left = math.max(0, moment - now)
  if soonest < 0 or left < soonest then soonest = left end
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  if node ~= ARGV[1] then
    local claim = redis.call('HGET', KEYS[2], node)
    local cleaner, till = string.match(claim or '', '^(%S+) (%d+)$')
    till = tonumber(till) or 0
    if till <= now or cleaner == ARGV[1] then
      redis.call('HSET', KEYS[2], node, ARGV[1] .. ' ' .. string.format('%.0f', now + tonumber(ARGV[2])))
      return {node, 0}
    end
    ends_at(till)
  end
end
local following = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if following[2] then ends_at(tonumber(following[2])) end
return {'', soonest}
