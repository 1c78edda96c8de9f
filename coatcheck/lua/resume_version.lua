#!lua flags=allow-oom
-- resume_version: take new jobs for a suspended version again.
--
-- KEYS[1]  prefix
-- ARGV     1 version
-- returns  1 if it was suspended, else 0
redis.call('DEL', P .. 'poison:' .. ARGV[1])
return redis.call('HDEL', P .. 'gates', 'version:' .. ARGV[1])
