#!lua flags=allow-oom
-- outbox_ack: an event was delivered.
--
-- KEYS[1]  prefix
-- ARGV     1 event, 2 token
-- returns  1 done, 0 not yours any more
local ek = P .. 'evt:' .. ARGV[1]
local e = redis.call('HMGET', ek, 'tok', 'job')
if e[1] ~= ARGV[2] then return 0 end
redis.call('DEL', ek)
redis.call('ZREM', P .. 'outbox', ARGV[1])
local jk = P .. 'job:' .. (e[2] or '')
if redis.call('EXISTS', jk) == 1 then redis.call('HSET', jk, 'wh_st', 'delivered') end
return 1
