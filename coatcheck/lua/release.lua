#!lua flags=allow-oom
-- release: hand claimed jobs back, their attempt not counted (a worker stops in good order).
-- From: running (to queued), canceling (to canceled).
--
-- KEYS[1]  prefix
-- ARGV     id, token, id, token, ...
-- returns  how many were handed back
local released = 0
for i = 1, #ARGV, 2 do
  local jk = P .. 'job:' .. ARGV[i]
  local j = redis.call('HMGET', jk, 'st', 'tok')
  if j[1] == 'running' and j[2] == ARGV[i + 1] then
    give_back(ARGV[i], jk, '')
    released = released + 1
  end
end
return released
