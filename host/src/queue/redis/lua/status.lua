#!lua flags=no-writes
-- Counts what one partition holds; reads no job.
-- KEYS: in (stream), later (zset), dead (stream)
-- ARGV: group
-- Returns: {entries, of them pending, first entry or "", later, dead, what is wrong with a key or ""}
local problem = ''
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'NOGROUP', 1, true) then problem = key .. ': ' .. answer.err end
  return nil
end
local first, pending = '', 0
local length = ask('XLEN', KEYS[1]) or 0
if length > 0 then
  first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
  local summary = ask('XPENDING', KEYS[1], ARGV[1])
  pending = summary and summary[1] or 0
end
return {length, pending, first, ask('ZCARD', KEYS[2]) or 0, ask('XLEN', KEYS[3]) or 0, problem}
