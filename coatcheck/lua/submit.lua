#!lua
-- submit: accept a job. Refused whole when Redis is full (no allow-oom here, and only here).
-- From: nothing. To: queued; with a claim in the same step, as `claim` makes it, running where a predict worker waits
-- for work (then the job goes into that worker's hand and into no queue).
--
-- KEYS[1]  prefix
-- ARGV     1 id, 2 queue, 3 account, 4 kind, 5 max queue depth, 6 max open jobs of the account, 7 queue TTL ms,
--          8 idempotency key's digest or '', 9 fingerprint of the body, 10 idempotency TTL ms,
--          11 version ('' = none to check for suspension), 12 'model', 13 model,
--          14 the id's own time ms (orders lists), 15 further limits of the account or '': 'open trainings, bytes in
--          storage past which nothing is begun that makes more, microseconds of computing a day', each 0 for none,
--          16... further fields and values of the record
-- returns  {word, id, time ms}: ok | replayed | mismatch | full | too_many_open | too_many_trainings | storage_full |
--          compute_used | pressure | suspended | leaving (the account is being deleted)
local HAND_BYTES = 16384 -- a larger input is read from its record
local id, k, account = ARGV[1], ARGV[2], ARGV[3]
local jk, idem = P .. 'job:' .. id, P .. 'idem:' .. ARGV[8]

-- A predict worker that waits for work now, taken off the list of those: {lease ms, name}; nil for none.
local function take_idle()
  local newest = redis.call('ZREVRANGE', P .. 'idle:predict', 0, 0, 'WITHSCORES')
  if not newest[1] then return nil end
  if tonumber(newest[2]) < now then
    redis.call('DEL', P .. 'idle:predict') -- all of them have been silent for too long
    return nil
  end
  redis.call('ZREM', P .. 'idle:predict', newest[1])
  return {string.match(newest[1], '^(%d+) (.+)$')}
end

-- Accept the job as claimed by `worker`; the token is of this very moment, so no two are equal.
local function hand_to(lease, worker, given)
  local token = '1:' .. clock[1] .. '.' .. clock[2]
  redis.call('HSET', jk, 'st', 'running', 'kind', ARGV[4], 'account', account, 'k', k, 'fence', 1, 'att', 1,
    'tok', token, 'worker', worker, 't_q', now, 't_s', now, 'ttl_ms', ARGV[7],
    'hist', '0 submit - \n0 claim ' .. worker .. ' ', 'model', ARGV[13], unpack(ARGV, 16))
  redis.call('ZADD', P .. 'leases', now + tonumber(lease), id)
  redis.call('HINCRBY', P .. 'cnt', 'submitted', 1)
  redis.call('LPUSH', P .. 'hand:' .. worker, k .. ' ' .. id .. ' ' .. token .. ' ' .. (given.rows or '1') .. ' '
    .. (given.limit_ms or '0') .. ' ' .. (given.in_ref or '') .. '\n' .. (given['in'] or ''))
end

-- The further limit that stands against the job, as the word to answer; nil for none.
local function limited()
  local trainings, bytes, micros = string.match(ARGV[15], '(%d+) (%d+) (%d+)')
  if ARGV[4] == 'training' and tonumber(trainings) > 0
      and tonumber(redis.call('HGET', P .. 'open_trainings', account) or '0') >= tonumber(trainings) then
    return 'too_many_trainings'
  end
  if ARGV[4] ~= 'prediction' and tonumber(bytes) > 0
      and tonumber(redis.call('HGET', P .. 'stored:' .. account, 'total') or '0') >= tonumber(bytes) then
    return 'storage_full'
  end
  if tonumber(micros) == 0 then return nil end
  local used = 0
  local today = redis.call('HGETALL', P .. 'use:' .. account .. ':' .. math.floor(now / DAY_MS))
  for i = 1, #today, 2 do
    if string.sub(today[i], 1, 2) == 'u:' then used = used + tonumber(today[i + 1]) end
  end
  return used >= tonumber(micros) and 'compute_used' or nil
end

local known = redis.call('HGET', jk, 't_q')
if known then return {'ok', id, tonumber(known)} end -- our own call, sent again after a lost reply
if ARGV[8] ~= '' then
  local before = redis.call('HMGET', idem, 'id', 'fp')
  if before[1] and redis.call('EXISTS', P .. 'job:' .. before[1]) == 1 then
    if before[2] ~= ARGV[9] then return {'mismatch', before[1], now} end
    return {'replayed', before[1], now}
  end
end
local gates = redis.call('HMGET', P .. 'gates', 'pressure', 'version:' .. ARGV[11], 'leaving:' .. account)
if gates[3] then return {'leaving', '', now} end
if gates[1] and now < tonumber(gates[1]) then return {'pressure', '', now} end
if ARGV[11] ~= '' and gates[2] then return {'suspended', '', now} end
local waiting = redis.call('ZCARD', P .. 'ready:' .. k) + redis.call('ZCARD', P .. 'solo:' .. k)
if waiting >= tonumber(ARGV[5]) then return {'full', '', now} end
if tonumber(redis.call('HGET', P .. 'open', account) or '0') >= tonumber(ARGV[6]) then
  return {'too_many_open', '', now}
end
local against = ARGV[15] ~= '' and limited()
if against then return {against, '', now} end
local given = {}
for i = 16, #ARGV, 2 do given[ARGV[i]] = ARGV[i + 1] end
local idle = waiting == 0 and family(k) == 'predict' and string.len(given['in'] or '') <= HAND_BYTES and take_idle()
if idle then
  hand_to(idle[1], idle[2], given)
else
  accept(id, ARGV[4], account, k, ARGV[7], now, waiting > 0, 'model', ARGV[13], unpack(ARGV, 16))
end
redis.call('ZADD', P .. 'of:' .. account .. ':' .. ARGV[4], ARGV[14], id)
redis.call('HINCRBY', P .. 'open', account, 1)
if ARGV[4] == 'training' then redis.call('HINCRBY', P .. 'open_trainings', account, 1) end
redis.call('HINCRBY', P .. 'runs', ARGV[13], 1)
if ARGV[8] ~= '' then
  redis.call('HSET', jk, 'idem', ARGV[8]) -- the key lives no longer than its record
  redis.call('HSET', idem, 'id', id, 'fp', ARGV[9])
  redis.call('PEXPIRE', idem, ARGV[10])
end
return {'ok', id, now}
