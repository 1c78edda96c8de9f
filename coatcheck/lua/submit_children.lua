#!lua
-- submit_children: accept children of a claimed batch. Refused whole when Redis is full (no allow-oom here).
-- A child belongs to its batch's account; it is in no list, counts as nobody's open job, has no webhook and no key.
-- From: nothing. To: queued. One that exists already (the plan is made again after a loss) stays as it is.
-- The batches of a queue take turns: a batch begins a turn behind the queue's head, its n-th child n turns later, and
-- none of it stands before the head. The score, milliseconds and one more a turn, is kept as `since`.
--
-- KEYS[1]  prefix
-- ARGV     1 id of the parent, 2 the parent's token, 3 max queue depth, then for each child: id, queue, kind, queue TTL
--          ms, version ('' = none to check for suspension), how many names and values follow, and these
-- returns  {word}: ok | canceling (nothing was accepted: the batch is to end) | fenced | gone | full | pressure | suspended
local parent, token = ARGV[1], ARGV[2]
local pk = P .. 'job:' .. parent
local p = redis.call('HMGET', pk, 'st', 'tok', 'cancel', 'account', 'children', 'turn')
if not p[1] then return {'gone'} end
if p[1] ~= 'running' or p[2] ~= token then return {'fenced'} end
if p[3] then return {'canceling'} end
local pressure = redis.call('HGET', P .. 'gates', 'pressure')
if pressure and now < tonumber(pressure) then return {'pressure'} end

local children, more = {}, {} -- how many more each queue is to hold
local i = 4
while i <= #ARGV do
  local id, k, version, count = ARGV[i], ARGV[i + 1], ARGV[i + 4], tonumber(ARGV[i + 5])
  if redis.call('EXISTS', P .. 'job:' .. id) == 0 then
    if version ~= '' and redis.call('HEXISTS', P .. 'gates', 'version:' .. version) == 1 then return {'suspended'} end
    children[#children + 1] = i
    more[k] = (more[k] or 0) + 1
  end
  i = i + 6 + count
end
for k, count in pairs(more) do
  local waiting = redis.call('ZCARD', P .. 'ready:' .. k) + redis.call('ZCARD', P .. 'solo:' .. k)
  if waiting + count > tonumber(ARGV[3]) then return {'full'} end
end
if #children > 0 then
  local before, turn = tonumber(p[5] or '0'), tonumber(p[6] or '-1')
  local stands = head(ARGV[children[1] + 1])
  if turn + before < stands then -- the first of them, or the others went on meanwhile
    turn = stands + (turn < 0 and 1 or 0) - before
    redis.call('HSET', pk, 'turn', turn)
  end
  for n, at in ipairs(children) do
    local since = turn + before + n - 1
    accept(ARGV[at], ARGV[at + 2], p[4], ARGV[at + 1], ARGV[at + 3], since, false, 'parent', parent, 'since', since,
      unpack(ARGV, at + 6, at + 5 + tonumber(ARGV[at + 5])))
  end
  redis.call('HINCRBY', pk, 'pending', #children)
  redis.call('HINCRBY', pk, 'children', #children)
end
return {'ok'}
