-- Nothing yet: a project without tables gets the seed's four, and asks nothing.
--
-- flags: --yes
-- privileges: legacy
-- asks: a first question
-- old: error 0, success 0

-- ## call as service_role
insert into public.generations (user_id, status, model, prompt_data)
values (:user, 'processing', 'small', '{"messages": [{"role": "user", "content": "a first question"}]}') returning id;

-- ## fail as service_role
update public.generations set status = 'error' where id = :generation;

-- ## output
{"anything": ["that", "is", "JSON"]}

-- ## expect migrated
-- The four tables are there, and empty.
select (select count(*) from public.generations) + (select count(*) from public.sessions)
  + (select count(*) from public.generation_error_logs) + (select count(*) from public.events) = 0;

-- ## expect failed
-- Two failed retries are two error logs.
select count(*) = 2 from public.generation_error_logs where generation_id = :generation;

-- ## expect succeeded
-- The answer is the session's content.
select s.content #>> '{anything,2}' = 'JSON' from public.generations g join public.sessions s on s.id = g.session_id
where g.id = :generation and g.status = 'success';

-- ## expect accepted
-- It waits.
select status = 'queued' from public.generations where id = :generation;

-- ## expect queued
-- The worker's session is there.
select session_id is not null from public.generations where id = :generation;

-- ## expect recovered
-- Twenty sessions.
select count(distinct session_id) = 20 from public.generations where id = any(:generations);

-- ## break
drop function public.ai_retry_create_session(public.generations, jsonb);

-- ## doctor names
ai_retry_create_session
