create function public.ai_retry_publish() returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  execute pg_catalog.format(
    'alter publication supabase_realtime add table %s', (ai_retry.app_describe() ->> 'generations')::regclass);
  return true;
exception when duplicate_object or object_not_in_prerequisite_state then
  return false;  -- it is there, by itself or with all tables
end
$$;
revoke all on function public.ai_retry_publish() from public, anon, authenticated, service_role;
comment on function public.ai_retry_publish() is
  'Lets browsers subscribe to generations by Realtime, under the table''s own policies, and returns whether that is new. For '
  'the owner. No table of ours ever joins.';
