create function public.ai_retry_publish() returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_table constant regclass := (ai_retry.app_describe() ->> 'generations')::regclass;
begin
  if not exists (select from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime') then
    raise exception 'there is no publication supabase_realtime: this is for Supabase projects with Realtime'
      using errcode = 'undefined_object';
  end if;
  if exists (
    select from pg_catalog.pg_publication_tables t
    where t.pubname = 'supabase_realtime' and pg_catalog.format('%I.%I', t.schemaname, t.tablename)::regclass = v_table)
  then
    return false;
  end if;
  execute pg_catalog.format('alter publication supabase_realtime add table %s', v_table);
  return true;
end
$$;
revoke all on function public.ai_retry_publish() from public, anon, authenticated, service_role;
comment on function public.ai_retry_publish() is
  'Lets browsers subscribe to generations by Realtime, under the table''s own policies, and returns whether that is new. For '
  'the owner. No table of ours ever joins.';
