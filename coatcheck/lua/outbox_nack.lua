#!lua flags=allow-oom
-- outbox_nack: a delivery attempt failed; try again later, or give up after the last.
--
-- KEYS[1]  prefix
-- ARGV     1 event, 2 token, 3 ms until the next attempt, 4 most attempts
-- returns  1 scheduled, 2 given up, 0 not yours any more
local ek = P .. 'evt:' .. ARGV[1]
local e = redis.call('HMGET', ek, 'tok', 'job', 'try')
if e[1] ~= ARGV[2] then return 0 end
local jk = P .. 'job:' .. (e[2] or '')
if tonumber(e[3] or '0') + 1 >= tonumber(ARGV[4]) then
  redis.call('DEL', ek)
  redis.call('ZREM', P .. 'outbox', ARGV[1])
  if redis.call('EXISTS', jk) == 1 then redis.call('HSET', jk, 'wh_st', 'failed') end
  return 2
end
redis.call('HINCRBY', ek, 'try', 1)
redis.call('HDEL', ek, 'tok')
redis.call('ZADD', P .. 'outbox', now + tonumber(ARGV[3]), ARGV[1])
return 1
