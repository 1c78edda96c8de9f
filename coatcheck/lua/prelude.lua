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
local TOLD_BYTES = 2048
local POISON_WINDOW_MS = 600 * 1000
local POISON_JOBS = 3
local DAY_MS = 86400 * 1000
local USAGE_KEPT_MS = 401 * DAY_MS
local USAGE_FIELDS = 3000 -- of an account's day; what other models use is added up under '*'

-- A queue's family, the name before the colon: predict, bulk, train, io. Each has a `busy` set of its own.
local function family(k) return string.match(k, '^[^:]+') end

-- Which kind of worker takes from queue `k`.
local function worker_kind(k)
  local name = family(k)
  return name == 'bulk' and 'predict' or name
end

-- What the transitions look at, read in one call; an absent field is false. Never the input or the output.
local RECORD = {'st', 'k', 'fence', 'att', 'max_att', 'tok', 'end_tok', 'cancel', 'worker', 'account', 'kind',
  'version', 't_q', 'hist', 'wh', 'wh_ev', 'keep_ms', 'ttl_ms', 'wait', 'follow', 'parent', 'model', 'fade'}
-- Each field costs about a microsecond: `names` are those that the caller looks at, where that matters.
local function read(jk, names)
  names = names or RECORD
  local values, j = redis.call('HMGET', jk, unpack(names)), {}
  for i, name in ipairs(names) do j[name] = values[i] end
  return j
end

-- The history with one more line: milliseconds since submit, word, worker, cause. The first line always stays.
local function history(j, word, worker, cause)
  local line = (now - tonumber(j.t_q or now)) .. ' ' .. word .. ' ' .. worker .. ' ' .. cause
  local hist = j.hist
  if not hist or hist == '' then return line end
  local _, lines = string.gsub(hist, '\n', '\n')
  if lines + 1 >= HISTORY_LINES then hist = string.gsub(hist, '\n[^\n]*', '', 1) end
  return hist .. '\n' .. line
end

-- Tell the web processes that follow this job; those that wait only for its end are told only of that, and with it
-- `told`, what they need to answer without reading (or '').
local function wake_waiters(j, id, ended, told)
  if j.follow then
    for channel in string.gmatch(j.follow, '%S+') do redis.call('PUBLISH', channel, id) end
  end
  if ended and j.wait then
    local message = told and told ~= '' and id .. ' ' .. told or id
    for channel in string.gmatch(j.wait, '%S+') do redis.call('PUBLISH', channel, message) end
  end
end

-- Counters and sets that many jobs of one call change alike. In a script that sets `together` their changes are added
-- up, and `apply` makes them with one call each; else each is made at once.
local together
local function start_together() together = {counts = {}, moves = {}} end
local function moved(command, key, ...)
  if not together then redis.call(command, P .. key, ...) return end
  local list = together.moves[key] or {command, P .. key}
  together.moves[key] = list
  for _, value in ipairs({...}) do list[#list + 1] = value end
end
-- Counters that fall to nothing are forgotten, minutes when their time is over.
local function add_up(key, field, by)
  if together then
    local fields = together.counts[key] or {}
    together.counts[key] = fields
    fields[field] = (fields[field] or 0) + by
    return
  end
  local value = redis.call('HINCRBY', P .. key, field, by)
  if value <= 0 and (key == 'open' or key == 'open_trainings') then redis.call('HDEL', P .. key, field) end
  if value ~= by then return end
  local name = string.sub(key, 1, 4)
  if name == 'min:' then
    redis.call('PEXPIRE', P .. key, MINUTE_KEPT_MS)
  elseif name == 'use:' then
    redis.call('PEXPIRE', P .. key, USAGE_KEPT_MS)
    if string.sub(field, 3) ~= '*' and redis.call('HLEN', P .. key) > USAGE_FIELDS then
      redis.call('HDEL', P .. key, field)
      redis.call('HINCRBY', P .. key, string.sub(field, 1, 2) .. '*', by)
    end
  end
end
local function apply()
  local work = together
  together = nil
  for key, fields in pairs(work.counts) do
    for field, by in pairs(fields) do add_up(key, field, by) end
  end
  for _, list in pairs(work.moves) do redis.call(unpack(list)) end
end

-- What an account has used today, by model: ended jobs (j), rows answered (r), jobs of one row (o, beside those),
-- microseconds of computing (u), bytes more in storage (s). Read by coatcheck/usage.py.
local function count_use(account, model, jobs, rows, micros)
  local key = 'use:' .. account .. ':' .. math.floor(now / DAY_MS)
  if jobs == 1 and rows == 1 then
    add_up(key, 'o:' .. model, 1) -- as most are: one call instead of two
  else
    if jobs > 0 then add_up(key, 'j:' .. model, jobs) end
    if rows > 0 then add_up(key, 'r:' .. model, rows) end
  end
  if micros > 0 then add_up(key, 'u:' .. model, micros) end
end

-- Microseconds since the claim of a running job.
local function ran_for(jk)
  return math.max(0, now - tonumber(redis.call('HGET', jk, 't_s') or now)) * 1000
end

-- `by` more bytes of an account lie in storage, as a model's versions or ('' = none) as files.
local function count_stored(account, model, by)
  local key = P .. 'stored:' .. account
  if redis.call('HINCRBY', key, 'm:' .. model, by) == 0 then redis.call('HDEL', key, 'm:' .. model) end
  if redis.call('HINCRBY', key, 'total', by) == 0 then redis.call('HDEL', key, 'total') end
  add_up('use:' .. account .. ':' .. math.floor(now / DAY_MS), 's:' .. model, by)
end

-- Tell an idle worker that queue `k` has work: at most one entry until a claim clears the bell.
local function ring(k)
  if redis.call('SET', P .. 'bell:' .. k, '1', 'NX', 'PX', BELL_MS) then
    local wake = P .. 'wake:' .. worker_kind(k)
    if redis.call('LPUSH', wake, k) > 1000 then redis.call('LTRIM', wake, 0, 999) end
  end
end

-- Put a queued job into a lane ('ready': first attempts, 'solo': the others, claimed one at a time). `behind`: an
-- older one is known to wait there.
local function enqueue(id, k, lane, since, behind)
  redis.call('ZADD', P .. lane .. ':' .. k, since, id)
  if not behind then redis.call('ZADD', P .. 'busy:' .. family(k), 'LT', since, k) end
  ring(k)
end

-- After taking from a queue: forget it when empty, else remember its oldest entry.
local function settle(k)
  local busy = P .. 'busy:' .. family(k)
  local oldest = redis.call('ZRANGE', P .. 'ready:' .. k, 0, 0, 'WITHSCORES')[2]
  local solo = redis.call('ZRANGE', P .. 'solo:' .. k, 0, 0, 'WITHSCORES')[2]
  if not oldest or (solo and tonumber(solo) < tonumber(oldest)) then oldest = solo end
  if oldest then redis.call('ZADD', busy, oldest, k) else redis.call('ZREM', busy, k) end
end

-- A version whose predictions keep killing their worker takes no new ones until somebody resumes it.
local function count_poison(id, j)
  if worker_kind(j.k) ~= 'predict' then return end -- a base model is everybody's
  local poison = P .. 'poison:' .. j.version
  redis.call('ZREMRANGEBYSCORE', poison, '-inf', now - POISON_WINDOW_MS)
  redis.call('ZADD', poison, now, id)
  redis.call('PEXPIRE', poison, POISON_WINDOW_MS)
  if redis.call('ZCARD', poison) >= POISON_JOBS then redis.call('HSET', P .. 'gates', 'version:' .. j.version, now) end
end

-- Leave the event of a job's end in the outbox, if its client asked for it or an endpoint of its account wants to hear
-- of such jobs, and it is not there or handed to its deliveries yet.
local function tell(id, jk, j, status)
  local own = j.wh and j.wh ~= '' and (not j.wh_ev or j.wh_ev == '' or string.find(j.wh_ev, 'completed', 1, true))
  if not own then
    local kinds = redis.call('HGET', P .. 'hooked', j.account or '?')
    if not kinds or not string.find(kinds, j.kind or '?', 1, true) then return end
  end
  local event = 'evt_' .. id .. '_completed'
  local state = redis.call('HGET', jk, 'wh_st')
  if (state and state ~= 'pending') or redis.call('ZSCORE', P .. 'outbox', event) then return end
  redis.call('HSET', P .. 'evt:' .. event, 'job', id, 'url', own and j.wh or '', 'st', status, 'try', 0, 't', now)
  redis.call('ZADD', P .. 'outbox', now, event)
  redis.call('HSET', jk, 'wh_st', 'pending')
  return true
end

-- Write the record of a job that was accepted, with further names and values, and put it into its queue as one that
-- waits since `since`, `behind` another or not known to be.
local function accept(id, kind, account, k, ttl, since, behind, ...)
  local expires = now + tonumber(ttl)
  redis.call('HSET', P .. 'job:' .. id, 'st', 'queued', 'kind', kind, 'account', account, 'k', k, 'fence', 0, 'att', 0,
    't_q', now, 'exp_at', expires, 'ttl_ms', ttl, 'hist', '0 submit - ', ...)
  redis.call('ZADD', P .. 'ttl', expires, id)
  redis.call('HINCRBY', P .. 'cnt', 'submitted', 1)
  enqueue(id, k, 'ready', since, behind)
end

-- Where queue `k` stands: the score of the first attempt that is next, or now.
local function head(k)
  return tonumber(redis.call('ZRANGE', P .. 'ready:' .. k, 0, 0, 'WITHSCORES')[2] or now)
end

-- Since when a first attempt waits, as queue `k` has it. A batch's child has its turn, or is next where that is over:
-- what stands at the head is where new batches begin.
local function waits_since(k, jk, j)
  local since = j.parent and redis.call('HGET', jk, 'since')
  return since and math.max(tonumber(since), head(k)) or j.t_q
end

-- A claimed job waits again, with a queue TTL of its own; the caller puts it into its lane or delays it.
local function requeue(id, jk, j, word, cause, ...)
  -- A training's attempt that was given back or will be tried again has computed; one that was lost is not charged.
  if j.kind == 'training' and (word == 'retry' or word == 'release') then
    count_use(j.account or '?', j.model or '', 0, 0, ran_for(jk))
  end
  local expires = now + tonumber(j.ttl_ms or '86400000')
  redis.call('HSET', jk, 'st', 'queued', 'exp_at', expires, 'hist', history(j, word, j.worker or '-', cause), ...)
  redis.call('HDEL', jk, 'tok')
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZADD', P .. 'ttl', expires, id)
end

-- A parked batch whose children have all ended, or that is to end without the others, goes back to its queue, as fresh as when it was accepted.
local function unpark(id, jk, j, cause)
  redis.call('ZREM', P .. 'waiting', id)
  requeue(id, jk, j, 'unpark', cause)
  enqueue(id, j.k, 'ready', j.t_q)
  wake_waiters(j, id)
end

-- Add an ended child's rows to its batch's tally: as it told them, or all of them at once. Canceled rows do not count.
local function count_rows(pk, jk, status, tally)
  local rest = redis.call('HMGET', jk, 'rows', 'code')
  local rows = tonumber(rest[1] or '1')
  local ok, bad, codes = 0, 0, {}
  if tally then
    ok, bad, codes = tally.succeeded, tally.failed, tally.codes
  elseif status == 'succeeded' then
    ok = rows
  elseif status ~= 'canceled' then
    bad = rows
    codes[rest[2] or status] = rows
  end
  if ok > 0 then redis.call('HINCRBY', pk, 'n_ok', ok) end
  if bad > 0 then redis.call('HINCRBY', pk, 'n_bad', bad) end
  for code, by in pairs(codes) do redis.call('HINCRBY', pk, 'c:' .. code, by) end
end

-- One child of a batch has ended. A parent that ended before it counts no more, and may be gone.
local function count_child(parent, jk, status, tally)
  local pk = P .. 'job:' .. parent
  local p = redis.call('HMGET', pk, 'st', 'tok', 'follow')
  if p[1] ~= 'queued' and p[1] ~= 'running' then return end
  count_rows(pk, jk, status, tally)
  wake_waiters({follow = p[3]}, parent)
  local pending = redis.call('HINCRBY', pk, 'pending', -1)
  if pending <= 0 and p[1] == 'running' and not p[2] then unpark(parent, pk, read(pk), 'children ended') end
end

-- True for a canceled job that is worked on all the same: a batch keeps what its children have done.
local function keeps(jk, j)
  return j.kind == 'batch' and redis.call('HEXISTS', jk, 'children') == 1
end

-- True for a job that can only end canceled: it was told so, or it is the child of a batch that takes no more from it.
local function unwanted(j)
  if j.cancel then return true end
  if not j.parent then return false end
  local p = redis.call('HMGET', P .. 'job:' .. j.parent, 'st', 'cancel', 'over')
  return p[2] or p[3] or (p[1] ~= 'queued' and p[1] ~= 'running')
end

-- What a web process that waits for a prediction is told of its success, in the order of `TOLD` in coatcheck/jobs.py;
-- '' where its answer needs more than this.
local function told_whole(j, delete_at, hist, output)
  if j.kind ~= 'prediction' or not j.wait or j.fade or (j.wh or '') ~= '' or output[1] == ''
      or string.len(output[1]) > TOLD_BYTES then return '' end
  return table.concat({now, delete_at, output[2], hist, output[1]}, '\0')
end

-- The only way into a terminal status; the caller has checked that it is legal.
-- `j` is the record as `read` gave it, `result` a flat list of further fields to write, `tally` how a chunk's rows
-- ended, `output` what a waiting web process may be told: {JSON, provider}, `used` what it is charged: {rows, microseconds}.
local function finish(id, jk, j, status, word, worker, cause, result, tally, output, used)
  local account = j.account or '?'
  local delete_at = now + tonumber(j.keep_ms or '86400000')
  local fields = result or {}
  local function with(name, value) fields[#fields + 1] = name; fields[#fields + 1] = value end
  local hist = history(j, word, worker, cause)
  with('st', status); with('t_e', now); with('del_at', delete_at); with('hist', hist)
  redis.call('HSET', jk, unpack(fields))
  -- Only success drops the input: the others can be submitted again. So can a batch whose rows failed in part; and a
  -- training's tells what its version was made of.
  local gone = {}
  if j.tok then gone[1] = 'tok' end
  if j.st == 'queued' then gone[#gone + 1] = 'exp_at' end
  if j.wait then gone[#gone + 1] = 'wait' end
  if j.follow then gone[#gone + 1] = 'follow' end
  if j.kind == 'batch' then
    gone[#gone + 1] = 'pending'
  elseif status == 'succeeded' and j.kind ~= 'training' then
    gone[#gone + 1] = 'in'
  end
  if #gone > 0 then redis.call('HDEL', jk, unpack(gone)) end
  if j.st == 'queued' then
    redis.call('ZREM', P .. 'delayed', id)
    redis.call('ZREM', P .. 'ttl', id)
    redis.call('ZREM', P .. 'ready:' .. j.k, id)
    redis.call('ZREM', P .. 'solo:' .. j.k, id)
    settle(j.k)
  else
    moved('ZREM', j.tok and 'leases' or 'waiting', id)
  end
  moved('ZADD', 'done', delete_at, id)
  if j.fade then moved('ZADD', 'fading', now + tonumber(j.fade), id) end
  add_up('cnt', 'term:' .. status, 1)
  count_use(account, j.model or '', j.parent and 0 or 1, used and used[1] or 0, used and used[2] or 0)
  -- A child is nobody's open job and no answer's latency.
  if j.parent then return count_child(j.parent, jk, status, tally) end
  add_up('open', account, -1)
  local minute = 'min:' .. math.floor(now / 60000)
  local took, bucket = now - tonumber(j.t_q or now), 0
  while took >= 1 and bucket < 30 do took = took / 2; bucket = bucket + 1 end
  add_up(minute, 'le2^' .. bucket, 1)
  add_up(minute, status, 1)
  local event = tell(id, jk, j, status)
  if j.kind ~= 'prediction' then
    if j.kind == 'training' then add_up('open_trainings', account, -1) end
    redis.call('XADD', P .. 'ev:' .. id, 'MAXLEN', '~', 1000, '*', 'done', status)
  end
  wake_waiters(j, id, true, output and not event and told_whole(j, delete_at, hist, output))
end

-- Idle predict workers are named in `idle:predict` as '<lease ms> <worker>', with the time until which that holds; each
-- has a list `hand:<worker>` for the job that `submit` claims for it. Strike those off the list whose name begins so.
local function strike_off(beginning, exactly)
  for _, member in ipairs(redis.call('ZRANGE', P .. 'idle:predict', 0, -1)) do
    local worker = string.match(member, '^%d+ (.+)$')
    local same = string.sub(worker, 1, string.len(beginning)) == beginning
    if exactly and worker == beginning or not exactly and same then redis.call('ZREM', P .. 'idle:predict', member) end
  end
end

-- A job in a worker's hand as {queue, id, token, rows, limit ms, input prefix, input}, from an entry of that list.
local function handed(entry)
  return {string.match(entry, '^(%S+) (%S+) (%S+) (%d+) (%d+) (%S*)\n(.*)$')}
end

-- Take the job with this token out of a worker's hand; true when it lay there, unread.
local function take_from_hand(worker, token)
  local name = P .. 'hand:' .. (worker or '-')
  local entry = redis.call('LINDEX', name, 0)
  if not entry or handed(entry)[3] ~= token then return false end
  redis.call('DEL', name)
  return true
end

-- Hand a claimed job back as if the claim had not been: it keeps its place and its attempt is not counted.
local function give_back(id, jk, j, cause)
  if unwanted(j) and not keeps(jk, j) then
    return finish(id, jk, j, 'canceled', 'release', j.worker or '-', cause)
  end
  local att = tonumber(j.att) - 1
  requeue(id, jk, j, 'release', cause, 'att', att)
  if att > 0 then enqueue(id, j.k, 'solo', now) else enqueue(id, j.k, 'ready', waits_since(j.k, jk, j)) end
  wake_waiters(j, id)
end

-- A running job was lost with its worker or its lease: next attempt alone, or the end.
-- The first loss goes straight to the solo lane, later ones wait 5 s * 2^(attempt-2). What lay unread in its worker's
-- hand was never seen: it is given back.
local function lose(id, jk, j, word, cause)
  if take_from_hand(j.worker, j.tok) then return give_back(id, jk, j, cause) end
  local att = tonumber(j.att)
  redis.call('HINCRBY', P .. 'cnt', 'lease_lost', 1)
  local last = att >= tonumber(j.max_att)
  if unwanted(j) and (last or not keeps(jk, j)) then
    return finish(id, jk, j, 'canceled', word, j.worker or '-', cause)
  end
  if last then
    finish(id, jk, j, 'failed', word, j.worker or '-', cause, {'code', 'lost_too_often', 'err',
      'The job lost its worker ' .. att .. ' times; its input or its model most likely ends the process.'})
    return count_poison(id, j)
  end
  requeue(id, jk, j, word, cause)
  if att <= 1 then
    enqueue(id, j.k, 'solo', now)
  else
    redis.call('ZADD', P .. 'delayed', now + 5000 * 2 ^ (att - 2), id)
  end
  wake_waiters(j, id)
end

-- Delayed jobs that are due go to the solo lane.
local function promote(limit)
  local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, limit)
  for _, id in ipairs(due) do
    redis.call('ZREM', P .. 'delayed', id)
    local k = redis.call('HGET', P .. 'job:' .. id, 'k')
    if k then enqueue(id, k, 'solo', now) end
  end
  return #due
end

-- Point an alias of `model` (owner/name) at a version ('' = at none) and write that into its history. `from` is what
-- it named before or ''; the numbers are written too: they are all that is left to tell once a version is deleted.
-- The newest 10,000 changes (and what is left of a block of the stream) are kept.
local function move_alias(model, alias, from, to, word, by, key, why)
  local function number(version)
    return version ~= '' and redis.call('ZSCORE', P .. 'versions:' .. model, version) or ''
  end
  local from_number, to_number = number(from), number(to)
  if to == '' then
    redis.call('HDEL', P .. 'aliases:' .. model, alias)
  else
    redis.call('HSET', P .. 'aliases:' .. model, alias, to)
  end
  redis.call('SADD', P .. 'alias_names:' .. model, alias)
  return redis.call('XADD', P .. 'alias_log:' .. model .. ':' .. alias, 'MAXLEN', '~', 10000, '*', 'action', word, 'from', from,
    'from_number', from_number, 'to', to, 'to_number', to_number, 'by', by, 'key', key, 'reason', why)
end
