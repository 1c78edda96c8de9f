#!lua flags=allow-oom
-- claim: take a group of first attempts, or one later attempt, from one queue.
-- From: queued. To: running (or expired, when older than its queue TTL).
--
-- KEYS[1]  prefix
-- ARGV     1 kind of worker, 2 queue ('' = the one that waits longest), 3 worker, 4 nonce, 5 lease ms,
--          6 most rows, 7 most input bytes, 8 'solo' to look into the solo lane first, else 'ready'
-- returns  {queue or '', {other busy queues}, {id, token, input, input_ref, rows, limit_ms, attempt}, ...}
local kind, k, worker, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local most_rows, most_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local busy = P .. 'busy:' .. kind
promote(100)
if k == '' then
  k = redis.call('ZRANGE', busy, 0, 0)[1]
  if not k then
    redis.call('DEL', P .. 'wake:' .. kind) -- stale: nothing waits
    return {'', {}}
  end
end
redis.call('DEL', P .. 'bell:' .. k) -- before looking: what comes after this script rings again

local items, rows, bytes = {}, 0, 0
local function take(lane, id)
  redis.call('ZREM', P .. lane .. ':' .. k, id)
  local jk = P .. 'job:' .. id
  local j = redis.call('HMGET', jk, 'st', 'exp_at', 'in', 'in_ref', 'rows', 'limit_ms')
  if j[1] ~= 'queued' then return end
  if j[2] and now >= tonumber(j[2]) then
    finish(id, jk, 'expired', 'claim', '-', 'queue TTL', {'code', 'expired', 'err', 'No worker took the job in time.'})
    return
  end
  local token = redis.call('HINCRBY', jk, 'fence', 1) .. ':' .. ARGV[4]
  local att = redis.call('HINCRBY', jk, 'att', 1)
  redis.call('HSET', jk, 'st', 'running', 'tok', token, 'worker', worker, 't_s', now)
  redis.call('HDEL', jk, 'exp_at')
  redis.call('ZREM', P .. 'ttl', id)
  redis.call('ZADD', P .. 'leases', now + lease, id)
  note(jk, 'claim', worker, '')
  wake_waiters(jk, id)
  rows = rows + tonumber(j[5] or '1')
  bytes = bytes + string.len(j[3] or '')
  items[#items + 1] = {id, token, j[3] or '', j[4] or '', j[5] or '1', j[6] or '0', att}
end

local function take_ready()
  for _, id in ipairs(redis.call('ZRANGE', P .. 'ready:' .. k, 0, most_rows - 1)) do
    local size = redis.call('HMGET', P .. 'job:' .. id, 'rows', 'size')
    if #items > 0 and (rows + tonumber(size[1] or '1') > most_rows
        or bytes + tonumber(size[2] or '0') > most_bytes) then break end
    take('ready', id)
  end
end

local function take_solo()
  while #items == 0 do
    local id = redis.call('ZRANGE', P .. 'solo:' .. k, 0, 0)[1]
    if not id then return end
    take('solo', id)
  end
end

if ARGV[8] == 'solo' then take_solo() else take_ready() end
if #items == 0 then
  if ARGV[8] == 'solo' then take_ready() else take_solo() end
end
settle(k)
local others = {}
for _, other in ipairs(redis.call('ZRANGE', busy, 0, 99)) do
  if other ~= k then others[#others + 1] = other end
end
return {k, others, unpack(items)}
