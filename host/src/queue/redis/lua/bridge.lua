#!lua flags=allow-oom
-- Takes items off a PHP list and hands each, as it is, to the nodes it is for. One step: the list's order is kept whoever runs it.
-- For everybody: as in route.lua, straight to the nodes while they are few.
-- KEYS: list, its notify list, dead (list), all (stream), nodes (zset)
-- ARGV: prefix "ps:{app:", most items, longest item in bytes, most dead items kept
-- Returns: {items taken, items set aside, reason of the last of those}
local prefix = ARGV[1]
local items = redis.call('LPOP', KEYS[1], ARGV[2])
if not items then return {0, 0, ''} end
redis.call('DEL', KEYS[2])
local time = redis.call('TIME')
local oldest = string.format('%.0f', math.max(0, time[1] * 1000 - 60000))
local live = redis.call('ZRANGEBYSCORE', KEYS[5], time[1] * 1000 - 60000, '+inf')
local set_aside, last_reason = 0, ''

local function encoded(id)
  return (string.gsub(id, '[{}%%%c]', function(c) return string.format('%%%02X', string.byte(c)) end))
end
-- The texts an id may have; none for one that is empty as PHP sees it. Lua's numbers lose integers over 2^53: those are read from the item's
-- own text, where another number of the same name may look the same. The nodes read exactly, so one text too many does no harm.
local function texts(to, name, item)
  local id = to[name]
  if id == nil or id == cjson.null or id == false or id == '' or (type(id) == 'table' and next(id) == nil) then return {} end
  if type(id) == 'string' then return {id} end
  if type(id) ~= 'number' or id ~= math.floor(id) or math.abs(id) == math.huge then
    error({err = '`' .. name .. '` is no id: ids are strings and integers'})
  end
  local found = {string.format('%.0f', id)}
  if math.abs(id) >= 9007199254740992 then
    for digits in string.gmatch(item, '"' .. name .. '"%s*:%s*(%-?%d+)') do
      if tonumber(digits) == id then found[#found + 1] = digits end
    end
  end
  return found
end
local function truthy(value)
  if value == nil or value == cjson.null or value == false or value == 0 or value == '' or value == '0' then return false end
  return type(value) ~= 'table' or next(value) ~= nil
end

-- Returns why the item can't be routed, or nil.
local function route(item)
  if item == '' then return 'item is empty: json_encode has failed in PHP, json_last_error_msg() tells why' end
  if #item > tonumber(ARGV[3]) then return 'item has ' .. #item .. ' bytes, over the limit of ' .. ARGV[3] .. ' bytes' end
  local good, message = pcall(cjson.decode, item)
  if not good then return 'item is no JSON' end
  if type(message) ~= 'table' then return 'item is no JSON object' end
  if type(message.action) ~= 'string' or message.action == '' then return 'item has no action' end
  local to = message.to
  if type(to) ~= 'table' then return 'item is addressed to nobody' end
  local connections, users, groups = texts(to, 'connection_id', item), texts(to, 'user_id', item), texts(to, 'group', item)
  texts(to, 'except', item)
  local everybody = truthy(to.broadcast)
  if everybody and #live > 32 then
    redis.call('XADD', KEYS[4], 'MINID', '~', oldest, '*', 'p', item)
    return nil
  end
  if not everybody and #connections + #users + #groups == 0 then
    return 'item is addressed to nobody: `to` has none of connection_id, user_id, group and broadcast'
  end

  local seen = {}
  local function hand(node, set)
    if seen[node] then return end
    local stream = prefix .. 'n:' .. node .. '}:out'
    if redis.call('EXISTS', stream) == 1 then
      seen[node] = true
      redis.call('XADD', stream, '*', 'p', item)
    elseif set then
      redis.call('SREM', set, node)
    end
  end
  local function hand_all(set)
    for _, node in ipairs(redis.call('SMEMBERS', set)) do hand(node, set) end
  end
  if everybody then
    for _, node in ipairs(live) do hand(node) end
    return nil
  end
  for _, connection in ipairs(connections) do
    local session = redis.call('GET', prefix .. 'a:' .. encoded(connection) .. '}')
    local node = string.match(session or connection, '^(%w+)%.%w+$')
    if node then hand(node) end
  end
  for _, user in ipairs(users) do hand_all(prefix .. 'u:' .. encoded(user) .. '}:nodes') end
  for _, group in ipairs(groups) do hand_all(prefix .. 'g:' .. encoded(group) .. '}:nodes') end
  return nil
end

for _, item in ipairs(items) do
  -- Nothing may end the script from here on: the items are off the list already.
  local good, reason = pcall(route, item)
  if not good and type(reason) == 'table' then reason = reason.err end
  if reason then
    reason = tostring(reason)
    set_aside, last_reason = set_aside + 1, reason
    redis.pcall('RPUSH', KEYS[3], cjson.encode({reason = reason, item = string.sub(item, 1, tonumber(ARGV[3]))}))
    redis.pcall('LTRIM', KEYS[3], -tonumber(ARGV[4]), -1)
  end
end
return {#items, set_aside, last_reason}
