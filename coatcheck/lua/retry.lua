#!lua flags=allow-oom
-- retry: report a passing failure of a claimed job.
-- From: running (to queued after a back-off, or failed when its attempts are used up), canceling (to canceled).
--
-- KEYS[1]  prefix
-- ARGV     1 id, 2 token, 3 code, 4 sentence, 5 back-off ms
-- returns  {word, status}: done | fenced | gone
local id, token = ARGV[1], ARGV[2]
local jk = P .. 'job:' .. id
local j = redis.call('HMGET', jk, 'st', 'tok', 'cancel', 'att', 'max_att', 'worker', 'k')
if not j[1] then return {'gone', ''} end
if j[2] ~= token or j[1] ~= 'running' then
  redis.call('HINCRBY', P .. 'cnt', 'fenced', 1)
  return {'fenced', j[1]}
end
if j[3] then
  finish(id, jk, 'canceled', 'retry', j[6], ARGV[3])
  return {'done', 'canceled'}
end
if tonumber(j[4]) >= tonumber(j[5]) then
  finish(id, jk, 'failed', 'retry', j[6], ARGV[3], {'code', ARGV[3], 'err', ARGV[4]})
  return {'done', 'failed'}
end
redis.call('ZREM', P .. 'leases', id)
redis.call('HDEL', jk, 'tok')
redis.call('HSET', jk, 'st', 'queued')
redis.call('ZADD', P .. 'delayed', now + tonumber(ARGV[5]), id)
note(jk, 'retry', j[6], ARGV[3])
wake_waiters(jk, id)
return {'done', 'queued'}
