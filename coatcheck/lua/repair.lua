#!lua flags=allow-oom
-- repair: put one job's sets and fields back in line with its status (the record is the truth).
--
-- KEYS[1]  prefix
-- ARGV     1 id, 2 a set it does not belong into or whose queue is not known as busy ('' = none)
-- returns  the job's status, or '' when there is no such job (then it is only removed from the sets)
local id = ARGV[1]
local jk = P .. 'job:' .. id
local j = read(jk)
local lane, stray_k = string.match(ARGV[2], '^(%a+):(.+)$')
redis.call('ZREM', P .. ARGV[2], id)
if lane == 'ready' or lane == 'solo' then settle(stray_k) end
local status, k = j.st or '', j.k or '?'
for _, set in ipairs({'leases', 'ttl', 'done', 'ready:' .. k, 'solo:' .. k}) do redis.call('ZREM', P .. set, id) end
local due, parked = redis.call('ZSCORE', P .. 'delayed', id), redis.call('ZSCORE', P .. 'waiting', id)
redis.call('ZREM', P .. 'delayed', id)
redis.call('ZREM', P .. 'waiting', id)
if status == '' then return '' end

local fence, att, max_att = tonumber(j.fence or 0), tonumber(j.att or 0), tonumber(j.max_att or 1)
local ended = status == 'succeeded' or status == 'failed' or status == 'canceled' or status == 'expired'
if not ended then
  if status ~= 'queued' then status = 'running' end -- unknown: as if its worker were lost
  att = math.min(att, fence, status == 'queued' and max_att - 1 or max_att)
  redis.call('HSET', jk, 'st', status, 'att', att)
  redis.call('HDEL', jk, 't_e')
end
if status == 'queued' then
  local expires = redis.call('HGET', jk, 'exp_at') or now + tonumber(j.ttl_ms or '86400000')
  redis.call('HSET', jk, 'exp_at', expires)
  redis.call('HDEL', jk, 'tok')
  redis.call('ZADD', P .. 'ttl', expires, id)
  if due and att > 0 then
    redis.call('ZADD', P .. 'delayed', due, id)
  else
    enqueue(id, k, att > 0 and 'solo' or 'ready', waits_since(k, jk, j) or now)
  end
elseif status == 'running' and parked and not j.tok then
  if tonumber(redis.call('HGET', jk, 'pending') or '0') > 0 then
    redis.call('ZADD', P .. 'waiting', parked, id)
  else
    unpark(id, jk, j, 'children ended')
    status = 'queued'
  end
elseif status == 'running' then
  -- Its worker keeps it if it holds this token; else the lease, which is over now, hands it to the next sweep.
  if not j.tok or string.match(j.tok, '^%d+') ~= j.fence then
    redis.call('HSET', jk, 'fence', fence + 1, 'tok', (fence + 1) .. ':repaired')
  end
  redis.call('ZADD', P .. 'leases', now, id)
else
  redis.call('HSETNX', jk, 't_e', now)
  redis.call('HSETNX', jk, 'del_at', now + tonumber(j.keep_ms or '86400000'))
  redis.call('HDEL', jk, 'tok', 'pending')
  redis.call('ZADD', P .. 'done', redis.call('HGET', jk, 'del_at'), id)
  tell(id, jk, j, status)
end
if k ~= '?' then settle(k) end
return status
