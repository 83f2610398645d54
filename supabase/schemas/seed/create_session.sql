-- The app's own way to create a session from an output. Ours only for a sessions table of ours.

do $session$
begin
  if to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)') is not null then
    return;
  end if;
  if (obj_description('public.sessions'::regclass, 'pg_class') like 'Created by ai-retry%') is not true then
    raise notice 'ai-retry: public.sessions is your own table: create public.ai_retry_create_session(public.generations, jsonb) returns jsonb; retries are refused as NOT_CONFIGURED until then';
    return;
  end if;
  create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb) returns jsonb
  language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $body$
  declare
    v_session public.sessions%rowtype;
  begin
    insert into public.sessions (user_id, content) values (p_generation.user_id, p_output) returning * into v_session;
    return pg_catalog.to_jsonb(v_session);
  end
  $body$;
  comment on function public.ai_retry_create_session(public.generations, jsonb) is
    'Created by ai-retry: creates the session of a generation and returns its row. Replace it to create your own.';
  revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated;
  grant execute on function public.ai_retry_create_session(public.generations, jsonb) to service_role;
end
$session$;
