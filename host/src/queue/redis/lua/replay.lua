#!lua flags=allow-oom
-- Puts dead letters back among the jobs, each in one step with its removal: never in both, never in neither. What is no longer there is
-- left out. On a full Redis too: it makes nothing larger.
-- KEYS: dead (stream), in (stream), cfg (hash)
-- ARGV: partitions as the caller knows them, how many fields a job has, their names, then for each dead letter its entry and the values
-- Returns: how many were put back; an error when the queue has other partitions by now, or is getting them: the job would go astray
if redis.call('HGET', KEYS[3], 'partitions') ~= ARGV[1] or redis.call('HEXISTS', KEYS[3], 'repartition') == 1 then
  return redis.error_reply('ERR the queue got other partitions meanwhile, or is getting them; end the repartition, then run this again')
end
local width = tonumber(ARGV[2])
local moved = 0
for at = 3 + width, #ARGV, width + 1 do
  if #redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at], 'COUNT', 1) == 1 then
    local fields = {}
    for i = 1, width do
      fields[#fields + 1] = ARGV[2 + i]
      fields[#fields + 1] = ARGV[at + i]
    end
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    redis.call('XDEL', KEYS[1], ARGV[at])
    moved = moved + 1
  end
end
return moved
