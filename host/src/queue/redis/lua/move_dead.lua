#!lua flags=allow-oom
-- Moves dead letters to another partition with their time of death, each in one step.
-- KEYS: dead it is in (stream), stream that becomes dead of the partition it belongs in
-- ARGV: entries, in order
-- Returns: how many were moved
local moved = 0
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i], 'COUNT', 1)[1]
  if entry then
    local time = string.match(ARGV[i], '^%d+')
    -- Two of one millisecond may come from two partitions. After an interruption the stream may be ahead: then the order goes before the time.
    local answer = redis.pcall('XADD', KEYS[2], time .. '-*', unpack(entry[2]))
    if type(answer) == 'table' and answer.err then redis.call('XADD', KEYS[2], '*', unpack(entry[2])) end
    redis.call('XDEL', KEYS[1], ARGV[i])
    moved = moved + 1
  end
end
return moved
