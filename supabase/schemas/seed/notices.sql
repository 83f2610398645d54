-- What an app's own policies and grants open. Decisions of ours don't rest on those columns.

do $notice$
declare
  v_policy record;
begin
  for v_policy in
    select p.policyname, p.cmd from pg_catalog.pg_policies p
    where p.schemaname = 'public' and p.tablename = 'generations' and p.cmd in ('INSERT', 'UPDATE', 'ALL')
      and p.roles && array['public', 'anon', 'authenticated']::name[]
  loop
    raise notice 'ai-retry: the policy "%" (%) lets end users write public.generations: prompt_data, model, id, status and created_at are then theirs to choose; restrict the models with AI_MODELS, and guard id, status and created_at, on which attempts and your own successes are counted',
      v_policy.policyname, v_policy.cmd;
  end loop;
  if exists (
    select from pg_catalog.pg_proc p, (values ('anon'), ('authenticated')) as r (name)
    where p.oid = to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)')
      and has_function_privilege(r.name, p.oid, 'execute')
  ) then
    raise notice 'ai-retry: end users may execute your ai_retry_create_session; run: revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated';
  end if;
end
$notice$;
