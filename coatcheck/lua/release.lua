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
  local j = read(jk)
  if j.st == 'running' and j.tok == ARGV[i + 1] then
    give_back(ARGV[i], jk, j, '')
    released = released + 1
  end
end
return released
