-- Stops before any change where this is no Supabase project.

do $look$
declare
  v_obstacles constant text[] := array(
    select format('there is no role %I', r.name)
    from (values ('anon'), ('authenticated'), ('service_role')) as r (name)
    where not exists (select from pg_catalog.pg_roles where rolname = r.name)
    union all select 'there is no table auth.users' where to_regclass('auth.users') is null);
begin
  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed; apply this to a Supabase project:\n  - '
        || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;
