#!lua flags=allow-oom
-- repair: put one job's set memberships back in line with its status (the record is the truth).
--
-- KEYS[1]  prefix
-- ARGV     1 id
-- returns  the job's status, or '' when there is no such job (then it is only removed from the sets)
local id = ARGV[1]
local jk = P .. 'job:' .. id
local j = redis.call('HMGET', jk, 'st', 'k', 'att', 'del_at', 'tok', 't_e')
local status, k = j[1] or '', j[2] or '?'
for _, set in ipairs({'delayed', 'leases'}) do redis.call('ZREM', P .. set, id) end
redis.call('ZREM', P .. 'ready:' .. k, id)
redis.call('ZREM', P .. 'solo:' .. k, id)
if status == 'queued' then
  redis.call('HDEL', jk, 'tok')
  enqueue(id, k, tonumber(j[3] or '0') > 0 and 'solo' or 'ready')
elseif status == 'running' then
  if not j[5] then redis.call('HSET', jk, 'tok', 'lost') end
  redis.call('ZADD', P .. 'leases', now, id) -- runs out at once: the next sweep decides
else
  redis.call('ZREM', P .. 'ttl', id)
  if status == '' then
    redis.call('ZREM', P .. 'done', id)
  else
    redis.call('HSETNX', jk, 't_e', now)
    redis.call('HDEL', jk, 'tok')
    redis.call('ZADD', P .. 'done', j[4] or now + 86400000, id)
  end
end
if k ~= '?' then settle(k) end
return status
