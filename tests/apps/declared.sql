-- A quiz maker that declares its schema: supabase/schemas holds the truth, and the next `db diff` must be empty.
--
-- flags: --generations public.quiz_jobs --sessions public.quizzes --error-logs none --events none
-- flags: --column prompt_data=request --column session_id=quiz_id
-- flags: --status queued=created --status processing=generating --status success=ready --status error=failed
-- flags: --set questions=output.questions --yes
-- privileges: legacy
-- asks: the planets
-- old: error 1, success 1
-- project: declared

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.quizzes (id, user_id, questions) values
  ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-00000000000a', '[{"q": "Capital of Peru?"}]');
insert into public.quiz_jobs (user_id, status, request, quiz_id, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'ready', '{"messages": [{"role": "user", "content": "capitals"}]}',
    '00000000-0000-4000-8000-000000000101', now() - interval '3 days'),
  ('00000000-0000-4000-8000-00000000000a', 'failed', '{"messages": [{"role": "user", "content": "rivers"}]}', null,
    now() - interval '2 days');

-- ## call as authenticated
insert into public.quiz_jobs (user_id, status, model, request)
values (:user, 'generating', 'small', '{"messages": [{"role": "user", "content": "the planets"}]}') returning id;

-- ## fail as service_role
update public.quiz_jobs set status = 'failed' where id = :generation;

-- ## output
{"questions": [{"q": "Which planet has rings?"}]}

-- ## expect migrated
-- The old quiz is there.
select questions #>> '{0,q}' = 'Capital of Peru?' from public.quizzes;

-- ## expect failed
-- The job failed, by the app's word.
select status = 'failed' from public.quiz_jobs where id = :generation;

-- ## expect succeeded
-- The quiz has its question.
select q.questions #>> '{0,q}' = 'Which planet has rings?' and j.status = 'ready'
from public.quiz_jobs j join public.quizzes q on q.id = j.quiz_id and q.user_id = j.user_id where j.id = :generation;

-- ## expect accepted
-- It waits, by the app's word.
select status = 'created' from public.quiz_jobs where id = :generation;

-- ## expect queued
-- The worker's quiz is there.
select status = 'ready' and quiz_id is not null from public.quiz_jobs where id = :generation;

-- ## expect recovered
-- Twenty quizzes.
select count(distinct quiz_id) = 20 from public.quiz_jobs where id = any(:generations) and status = 'ready';

-- ## break
alter table public.quiz_jobs drop constraint quiz_jobs_status_check;
update public.quiz_jobs set status = 'review' where status = 'ready' and created_at < now() - interval '1 day';

-- ## doctor names
review
