#!lua flags=allow-oom
-- complete: report the end of a claimed job; publishes a training's version in the same step.
-- From: running (to succeeded or failed), canceling (to canceled).
--
-- KEYS[1]  prefix
-- ARGV     1 id, 2 token, 3 succeeded | failed, 4 output JSON, 5 output artifact prefix, 6 code, 7 sentence,
--          8 provider, 9 publication JSON or '', 10 events as a JSON array of [name, data] or ''
-- returns  {word, status}: done | repeated (this token's report arrived before) | fenced | gone
local id, token, status = ARGV[1], ARGV[2], ARGV[3]
local jk = P .. 'job:' .. id
local j = redis.call('HMGET', jk, 'st', 'tok', 'cancel', 'worker', 'end_tok', 'account')
if not j[1] then return {'gone', ''} end
if j[5] == token then return {'repeated', j[1]} end
if j[2] ~= token or j[1] ~= 'running' then
  redis.call('HINCRBY', P .. 'cnt', 'fenced', 1)
  return {'fenced', j[1]}
end
if j[3] then
  finish(id, jk, 'canceled', 'complete', j[4], '', {'end_tok', token})
  return {'done', 'canceled'}
end
local result = {'end_tok', token}
local function with(name, value)
  if value ~= '' then result[#result + 1] = name; result[#result + 1] = value end
end
with('res', ARGV[4]); with('res_ref', ARGV[5]); with('code', ARGV[6]); with('err', ARGV[7]); with('provider', ARGV[8])
if ARGV[9] ~= '' then
  local p = cjson.decode(ARGV[9])
  local mk, vk = P .. 'model:' .. p.owner .. '/' .. p.name, P .. 'version:' .. p.id
  if redis.call('EXISTS', mk) == 0 then
    redis.call('HSET', mk, 'account', p.owner, 'visibility', 'private', 'created', now, 'description', '', 'runs', 0)
    redis.call('ZADD', P .. 'models:' .. p.owner, now, p.name)
  end
  if redis.call('EXISTS', vk) == 0 then
    local number = redis.call('HINCRBY', mk, 'versions', 1)
    redis.call('HSET', vk, 'owner', p.owner, 'name', p.name, 'number', number, 'prefix', p.prefix,
      'signature', p.signature, 'metrics', p.metrics, 'training', id, 'created', now)
    redis.call('ZADD', P .. 'versions:' .. p.owner .. '/' .. p.name, number, p.id)
  end
  redis.call('HSET', P .. 'aliases:' .. p.owner .. '/' .. p.name, 'latest', p.id)
end
if ARGV[10] ~= '' then
  for _, event in ipairs(cjson.decode(ARGV[10])) do
    redis.call('XADD', P .. 'ev:' .. id, 'MAXLEN', '~', 1000, '*', event[1], event[2])
  end
end
finish(id, jk, status, 'complete', j[4], ARGV[6], result)
return {'done', status}
