#!lua flags=allow-oom
-- Moves due jobs from `later` to `in`, by Redis's clock.
-- KEYS: later, in, dead of a partition; of the next; ...
-- ARGV: most jobs moved in all, most dead letters kept, then the field names of a job
-- Returns: {jobs moved, ms until the next one is due, or -1 when none waits}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moved, next_due = 0, -1
local function promote(later, incoming, dead)
  local room = tonumber(ARGV[1]) - moved
  local due = room > 0 and redis.call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, room) or {}
  for _, member in ipairs(due) do
    local good, values = pcall(cjson.decode, member)
    local fields = {}
    if good and type(values) == 'table' then
      for i = 3, #ARGV do
        if type(values[i - 2]) == 'string' then
          fields[#fields + 1] = ARGV[i]
          fields[#fields + 1] = values[i - 2]
        end
      end
    end
    if #fields == 2 * (#ARGV - 2) then
      redis.call('XADD', incoming, '*', unpack(fields))
    else
      redis.call('XADD', dead, 'MAXLEN', '~', ARGV[2], '*', 'raw', member, 'reason', 'no scheduled job', 'attempts', '0', 'version', '')
    end
    redis.call('ZREM', later, member)
    moved = moved + 1
  end
  local first = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
  if first[2] then
    local wait = math.max(0, math.ceil(tonumber(first[2]) - now))
    if next_due < 0 or wait < next_due then next_due = wait end
  end
end
for k = 1, #KEYS, 3 do
  -- A key of the wrong type must not hold up the other partitions; its own jobs stay where they are.
  pcall(promote, KEYS[k], KEYS[k + 1], KEYS[k + 2])
end
return {moved, next_due}
