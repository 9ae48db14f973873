#!lua flags=allow-oom
-- Renews a worker's lease, releases partitions, and claims free ones up to the worker's fair share (by rank: floor + remainder).
-- After a loss of all data every worker still takes for its own what it had: for one lease nobody is given anything but that.
-- KEYS: workers (zset, lease ends in ms), owners (hash, partition -> "worker epoch"), epoch (counter), quiet (there = data was lost)
-- ARGV: worker, lease in ms, partitions, "stay" or "leave", "partition epoch partition epoch ..." that the worker takes for its own, then
-- the partitions to release
-- Returns: {quota, {partition, epoch, partition, epoch, ...} with what the worker owns now, ms until another worker's lease ends unless
-- renewed, or -1 without another worker}
local worker, lease, partitions = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[4] == 'leave' then
  redis.call('ZREM', KEYS[1], worker)
else
  redis.call('ZADD', KEYS[1], now + lease, worker)
end

local owner, epoch = {}, {}
local flat = redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
  local id, number = string.match(flat[i + 1], '^(.-) (%d+)$')
  owner[flat[i]], epoch[flat[i]] = id, number
end
local function release(partition)
  if owner[partition] == worker then
    redis.call('HDEL', KEYS[2], partition)
    owner[partition] = nil
  end
end
for i = 6, #ARGV do release(ARGV[i]) end
if ARGV[4] == 'leave' then
  for p = 0, partitions - 1 do release(tostring(p)) end
  return {0, {}, -1}
end

if ARGV[5] ~= '' and redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SET', KEYS[4], '1', 'PX', lease) end
local quiet = redis.call('EXISTS', KEYS[4]) == 1
if quiet then
  for name, number in string.gmatch(ARGV[5], '(%d+) (%d+)') do
    if not owner[name] then
      owner[name], epoch[name] = worker, number
      redis.call('HSET', KEYS[2], name, worker .. ' ' .. number)
      if tonumber(number) > tonumber(redis.call('GET', KEYS[3]) or '0') then redis.call('SET', KEYS[3], number) end
    end
  end
end

local live, next_end = {}, -1
local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  live[#live + 1] = leases[i]
  -- By score: the first one of another is the earliest.
  if next_end < 0 and leases[i] ~= worker then next_end = math.max(0, math.ceil(tonumber(leases[i + 1]) - now)) end
end
table.sort(live)
local rank, alive = 0, {}
for i, id in ipairs(live) do
  alive[id] = true
  if id == worker then rank = i - 1 end
end
local quota = math.floor(partitions / #live)
if rank < partitions % #live then quota = quota + 1 end

local mine, count = {}, 0
for p = 0, partitions - 1 do
  local name = tostring(p)
  if owner[name] == worker then
    mine[#mine + 1] = p
    mine[#mine + 1] = tonumber(epoch[name])
    count = count + 1
  end
end
-- What this very call released is left for others: they come for it in their turn.
local released = {}
for i = 6, #ARGV do released[ARGV[i]] = true end
for p = 0, partitions - 1 do
  local name = tostring(p)
  if quiet or count >= quota then break end
  if not released[name] and (not owner[name] or not alive[owner[name]]) then
    local number = redis.call('INCR', KEYS[3])
    redis.call('HSET', KEYS[2], name, worker .. ' ' .. number)
    mine[#mine + 1] = p
    mine[#mine + 1] = number
    count = count + 1
  end
end
return {quota, mine, next_end}
