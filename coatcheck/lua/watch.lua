#!lua flags=allow-oom
-- watch: have a web process told (on its pub/sub channel) when an open job ends, or at every change.
--
-- KEYS[1]  prefix
-- ARGV     1 id, 2 channel, 3 'wait' (its end) or 'follow' (every change)
-- returns  the job's status, or '' when there is no such job
local jk = P .. 'job:' .. ARGV[1]
local j = redis.call('HMGET', jk, 'st', ARGV[3])
if not j[1] then return '' end
if j[1] == 'queued' or j[1] == 'running' then
  local channels = j[2] or ''
  if not string.find(' ' .. channels .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then
    redis.call('HSET', jk, ARGV[3], channels == '' and ARGV[2] or channels .. ' ' .. ARGV[2])
  end
end
return j[1]
