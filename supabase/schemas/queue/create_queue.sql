create function public.ai_retry_create_queue() returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if to_regnamespace('pgmq') is null
    and exists (select from pg_catalog.pg_available_extensions e where e.name = 'pgmq')
  then
    create extension pgmq;
  end if;
  if to_regnamespace('pgmq') is null then
    return false;
  end if;
  if to_regclass('pgmq.q_ai_retry') is null then
    perform pgmq.create('ai_retry');
    -- Ids of messages begin anew: one that a dropped queue gave must not be taken for another attempt's.
    update public.ai_retry_open set message_id = null where message_id is not null;
  end if;
  alter table pgmq.q_ai_retry enable row level security;
  revoke all on table pgmq.q_ai_retry, pgmq.a_ai_retry from public, anon, authenticated;
  grant usage on schema pgmq to service_role;
  grant select, insert, update, delete on table pgmq.q_ai_retry to service_role;
  return true;
end
$$;
revoke all on function public.ai_retry_create_queue() from public, anon, authenticated, service_role;
comment on function public.ai_retry_create_queue() is
  'Creates the queue ai_retry, and returns whether there is one: Supabase Queues (pgmq) must be there. A repeat changes '
  'nothing. For the owner, also when pgmq comes later.';

do $queue$
declare
  v_problem text := 'there is no pgmq here';
begin
  begin
    if public.ai_retry_create_queue() then
      return;
    end if;
  exception when insufficient_privilege or undefined_function then
    v_problem := sqlerrm;  -- not this role's, or not pgmq
  end;
  raise notice 'ai-retry: %: queued retries are refused as NOT_CONFIGURED; enable Supabase Queues (or load pgmq.sql), then run, as the owner of schema pgmq: select public.ai_retry_create_queue()', v_problem;
end
$queue$;
