#!lua flags=allow-oom
-- Sends one delivery to every node that holds one of its addresses, each node once.
-- For everybody: straight to the nodes while they are few. Ids of two streams don't tell the order within a millisecond, so only this
-- keeps it; with many nodes the one stream for all is worth more.
-- KEYS: all (stream), nodes (zset), then route sets of users and groups, then aliases
-- ARGV: prefix "ps:{app:", header, data, key of the group route to add ("" = none), "all" or "", how many of the keys are sets, then session ids
-- Returns: how many streams got it
local prefix, header, data, join = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local sets = tonumber(ARGV[6])
local nodes, order, from = {}, {}, {}

local function add(node, set)
  if not nodes[node] then
    nodes[node] = true
    order[#order + 1] = node
  end
  if set then
    from[node] = from[node] or {}
    table.insert(from[node], set)
  end
end
local function add_session(session)
  local node = session and string.match(session, '^([^.]+)%.')
  if node then add(node) end
end

local live = {}
if ARGV[5] == 'all' then
  local now = redis.call('TIME')
  -- A minute's grace: after a stall of Redis all leases have ended although the nodes are there. A node without a stream is gone.
  live = redis.call('ZRANGEBYSCORE', KEYS[2], now[1] * 1000 - 60000, '+inf')
end
if #live > 32 and join == '' then
  local time = redis.call('TIME')
  local oldest = math.max(0, time[1] * 1000 - 60000)
  redis.call('XADD', KEYS[1], 'MINID', '~', string.format('%.0f', oldest), '*', 'h', header, 'd', data)
  return 1
end
for _, node in ipairs(live) do add(node) end
for k = 3, 2 + sets do
  for _, node in ipairs(redis.call('SMEMBERS', KEYS[k])) do add(node, KEYS[k]) end
end
for k = 3 + sets, #KEYS do add_session(redis.call('GET', KEYS[k])) end
for i = 7, #ARGV do add_session(ARGV[i]) end

local sent = 0
for _, node in ipairs(order) do
  local stream = prefix .. 'n:' .. node .. '}:out'
  if redis.call('EXISTS', stream) == 1 then
    if join ~= '' then redis.call('SADD', join, node) end
    redis.call('XADD', stream, '*', 'h', header, 'd', data)
    sent = sent + 1
  else
    for _, set in ipairs(from[node] or {}) do redis.call('SREM', set, node) end
  end
end
return sent
