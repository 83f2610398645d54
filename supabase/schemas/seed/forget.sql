-- A stored answer goes with its generation, where the table is one that was created here.

do $forget$
begin
  if pg_catalog.obj_description('public.generations'::regclass, 'pg_class') like 'Created by ai-retry:%' then
    create or replace trigger ai_retry_forget after delete on public.generations
      referencing old table as gone for each statement execute function ai_retry.app_forget();
  end if;
end
$forget$;
