-- Shared by every script: pasted after the shebang line by `coatcheck/scripts.py`.
--
-- KEYS[1]  'q:{c}:', the prefix of every key; all keys share its hash tag and so one slot
--
-- A script is isolated but not rolled back when it raises half-way. So: read and check first, write last,
-- and never hand a Lua boolean to redis.call. Time is the server's alone.
local P = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local HISTORY_LINES = 10
local BELL_MS = 3000
local MINUTE_KEPT_MS = 8 * 86400 * 1000
local POISON_WINDOW_MS = 600 * 1000
local POISON_JOBS = 3

-- Which kind of worker takes from queue `k`.
local function worker_kind(k)
  local kind = string.match(k, '^[^:]+')
  if kind == 'bulk' then return 'predict' end
  return kind
end

-- One line a transition: milliseconds since submit, word, worker, cause.
local function note(jk, word, worker, cause)
  local j = redis.call('HMGET', jk, 'hist', 't_q')
  local line = (now - tonumber(j[2] or now)) .. ' ' .. word .. ' ' .. worker .. ' ' .. cause
  local hist = j[1]
  if hist and hist ~= '' then
    local _, lines = string.gsub(hist, '\n', '\n')
    if lines + 1 >= HISTORY_LINES then hist = string.gsub(hist, '\n[^\n]*', '', 1) end -- keeps the first line
    line = hist .. '\n' .. line
  end
  redis.call('HSET', jk, 'hist', line)
end

-- Tell the web processes that follow this job; those that wait only for its end are told only of that.
local function wake_waiters(jk, id, ended)
  local j = redis.call('HMGET', jk, 'follow', 'wait')
  local channels = j[1] or ''
  if ended and j[2] then channels = channels .. ' ' .. j[2] end
  for channel in string.gmatch(channels, '%S+') do redis.call('PUBLISH', channel, id) end
end

-- Tell an idle worker that queue `k` has work: at most one entry until a claim clears the bell.
local function ring(k)
  if redis.call('SET', P .. 'bell:' .. k, '1', 'NX', 'PX', BELL_MS) then
    local wake = P .. 'wake:' .. worker_kind(k)
    if redis.call('LPUSH', wake, k) > 1000 then redis.call('LTRIM', wake, 0, 999) end
  end
end

-- Put a queued job into a lane ('ready': first attempts, 'solo': the others, claimed one at a time).
local function enqueue(id, k, lane)
  redis.call('ZADD', P .. lane .. ':' .. k, now, id)
  redis.call('ZADD', P .. 'busy:' .. worker_kind(k), 'NX', now, k)
  ring(k)
end

-- After taking from a queue: forget it when empty, else remember its oldest entry.
local function settle(k)
  local busy = P .. 'busy:' .. worker_kind(k)
  local oldest = redis.call('ZRANGE', P .. 'ready:' .. k, 0, 0, 'WITHSCORES')[2]
  local solo = redis.call('ZRANGE', P .. 'solo:' .. k, 0, 0, 'WITHSCORES')[2]
  if not oldest or (solo and tonumber(solo) < tonumber(oldest)) then oldest = solo end
  if oldest then redis.call('ZADD', busy, oldest, k) else redis.call('ZREM', busy, k) end
end

-- A version whose jobs keep killing their worker takes no new ones until somebody resumes it.
local function count_poison(id, version)
  local poison = P .. 'poison:' .. version
  redis.call('ZREMRANGEBYSCORE', poison, '-inf', now - POISON_WINDOW_MS)
  redis.call('ZADD', poison, now, id)
  redis.call('PEXPIRE', poison, POISON_WINDOW_MS)
  if redis.call('ZCARD', poison) >= POISON_JOBS then redis.call('HSET', P .. 'gates', 'version:' .. version, now) end
end

-- The only way into a terminal status; the caller has checked that it is legal.
-- `result` is a flat list of further fields to write.
local function finish(id, jk, status, word, worker, cause, result)
  local j = redis.call('HMGET', jk, 'account', 'wh', 'wh_ev', 'keep_ms', 'kind', 'version', 't_q', 'code', 'k', 'st')
  local account = j[1] or '?'
  local delete_at = now + tonumber(j[4] or '86400000')
  local fields = result or {}
  for _, value in ipairs({'st', status, 't_e', now, 'del_at', delete_at}) do fields[#fields + 1] = value end
  redis.call('HSET', jk, unpack(fields))
  redis.call('HDEL', jk, 'tok')
  if status == 'succeeded' then redis.call('HDEL', jk, 'in') end -- the others keep it: they can be submitted again
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('ZREM', P .. 'ttl', id)
  if j[10] == 'queued' then
    local k = j[9]
    redis.call('ZREM', P .. 'ready:' .. k, id)
    redis.call('ZREM', P .. 'solo:' .. k, id)
    settle(k)
  end
  redis.call('ZADD', P .. 'done', delete_at, id)
  if redis.call('HINCRBY', P .. 'open', account, -1) <= 0 then redis.call('HDEL', P .. 'open', account) end
  redis.call('HINCRBY', P .. 'cnt', 'term:' .. status, 1)
  local minute = P .. 'min:' .. math.floor(now / 60000)
  local took, bucket = now - tonumber(j[7] or now), 0
  while took >= 1 and bucket < 30 do took = took / 2; bucket = bucket + 1 end
  redis.call('HINCRBY', minute, 'le2^' .. bucket, 1)
  if redis.call('HINCRBY', minute, status, 1) == 1 then redis.call('PEXPIRE', minute, MINUTE_KEPT_MS) end
  note(jk, word, worker, cause)
  local wanted = not j[3] or j[3] == '' or string.find(j[3], 'completed', 1, true)
  if j[2] and j[2] ~= '' and wanted then
    local event = 'evt_' .. id .. '_completed'
    redis.call('HSET', P .. 'evt:' .. event, 'job', id, 'url', j[2], 'st', status, 'try', 0, 't', now)
    redis.call('ZADD', P .. 'outbox', now, event)
    redis.call('HSET', jk, 'wh_st', 'pending')
  end
  if j[5] == 'training' then
    redis.call('XADD', P .. 'ev:' .. id, 'MAXLEN', '~', 1000, '*', 'done', status)
  end
  wake_waiters(jk, id, true)
end

-- A running job was lost with its worker or its lease: next attempt alone, or the end.
-- The first loss goes straight to the solo lane, later ones wait 5 s * 2^(attempt-2).
local function lose(id, jk, word, cause)
  local j = redis.call('HMGET', jk, 'cancel', 'att', 'max_att', 'k', 'version', 'worker')
  local att = tonumber(j[2])
  redis.call('HINCRBY', P .. 'cnt', 'lease_lost', 1)
  if j[1] then
    finish(id, jk, 'canceled', word, j[6] or '-', cause)
    return 'canceled'
  end
  if att >= tonumber(j[3]) then
    finish(id, jk, 'failed', word, j[6] or '-', cause, {'code', 'lost_too_often', 'err',
      'The job lost its worker ' .. att .. ' times; its input or its model most likely ends the process.'})
    count_poison(id, j[5] or '')
    return 'failed'
  end
  redis.call('ZREM', P .. 'leases', id)
  redis.call('HDEL', jk, 'tok')
  redis.call('HSET', jk, 'st', 'queued')
  if att <= 1 then
    enqueue(id, j[4], 'solo')
  else
    redis.call('ZADD', P .. 'delayed', now + 5000 * 2 ^ (att - 2), id)
  end
  note(jk, word, j[6] or '-', cause)
  wake_waiters(jk, id)
  return 'queued'
end

-- Hand a claimed job back as if the claim had not been.
local function give_back(id, jk, cause)
  local j = redis.call('HMGET', jk, 'cancel', 'k', 'worker', 'att')
  if j[1] then
    finish(id, jk, 'canceled', 'release', j[3] or '-', cause)
    return 'canceled'
  end
  redis.call('ZREM', P .. 'leases', id)
  redis.call('HINCRBY', jk, 'att', -1)
  redis.call('HDEL', jk, 'tok')
  redis.call('HSET', jk, 'st', 'queued')
  enqueue(id, j[2], tonumber(j[4]) > 1 and 'solo' or 'ready')
  note(jk, 'release', j[3] or '-', cause)
  wake_waiters(jk, id)
  return 'queued'
end

-- Delayed jobs that are due go to the solo lane.
local function promote(limit)
  local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, limit)
  for _, id in ipairs(due) do
    redis.call('ZREM', P .. 'delayed', id)
    local k = redis.call('HGET', P .. 'job:' .. id, 'k')
    if k then enqueue(id, k, 'solo') end
  end
  return #due
end
