#!lua flags=allow-oom
-- outbox_lease: take events that are due, for one delivery attempt.
--
-- KEYS[1]  prefix
-- ARGV     1 most events, 2 lease ms, 3 nonce
-- returns  {event, token, job, url, status, tries, time ms}, ...
local taken = {}
for _, event in ipairs(redis.call('ZRANGEBYSCORE', P .. 'outbox', '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))) do
  local ek = P .. 'evt:' .. event
  local token = redis.call('HINCRBY', ek, 'fence', 1) .. ':' .. ARGV[3]
  redis.call('HSET', ek, 'tok', token)
  redis.call('ZADD', P .. 'outbox', now + tonumber(ARGV[2]), event)
  local e = redis.call('HMGET', ek, 'job', 'url', 'st', 'try', 't')
  taken[#taken + 1] = {event, token, e[1] or '', e[2] or '', e[3] or '', e[4] or '0', e[5] or '0'}
end
return taken
