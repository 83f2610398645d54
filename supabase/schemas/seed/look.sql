-- Names every obstacle in the app's tables in one message, before anything is changed.

do $look$
declare
  v_obstacles constant text[] := array(
    select format('public.%I must be a table', c.relname) from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind not in ('r', 'p')
      and c.relname in ('generations', 'sessions', 'generation_error_logs', 'events')
    union all select case
      when t.typname is null then format('public.%I needs a column %I of type uuid', e.tab, n.col)
      when t.typtype = 'e' then
        format(
          E'public.%1$I.%2$I is the enum %3$s and must be text; run first:\n'
          '      alter table public.%1$I alter column %2$I drop default;\n'
          '      alter table public.%1$I alter column %2$I type text using %2$I::text;',
          e.tab, n.col, format_type(a.atttypid, null))
        || coalesce(
          E'\n      ' || format('alter table public.%I alter column %I set default ', e.tab, n.col)
          || split_part(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '::', 1) || ';', '')
      else format('public.%I.%I is %s and must be %s',
        e.tab, n.col, format_type(a.atttypid, null), array_to_string(e.types::text[], ' or '))
    end
    from (values
      ('generations', '{id,user_id}', '{uuid}', true), ('sessions', '{id}', '{uuid}', true),
      ('generations', '{session_id}', '{uuid}', false), ('events', '{user_id}', '{uuid}', false),
      ('generation_error_logs', '{generation_id,user_id}', '{uuid}', false),
      ('generations', '{status,model}', '{text,varchar}', false), ('events', '{event_type}', '{text,varchar}', false),
      ('generation_error_logs', '{error_type,error_message}', '{text,varchar}', false),
      ('generations', '{prompt_data}', '{jsonb,json}', false), ('events', '{event_data}', '{jsonb,json}', false),
      ('generations', '{duration_ms}', '{int4,int8,numeric,float8}', false),
      ('generations', '{created_at,updated_at}', '{timestamptz}', false),
      ('generation_error_logs', '{created_at}', '{timestamptz}', false), ('events', '{created_at}', '{timestamptz}', false)
    ) as e (tab, columns, types, required)
    cross join lateral unnest(e.columns::text[]) n (col)
    join pg_catalog.pg_class c on c.relname = e.tab and c.relnamespace = 'public'::regnamespace
    left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = n.col and not a.attisdropped
    left join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where case when t.typname is null then e.required else not t.typname = any (e.types::text[]) end
    union all select format('public.%I.id must be unique: make it the primary key', c.relname) from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('generations', 'sessions') and c.relkind = 'r'
      and not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisunique and i.indnkeyatts = 1 and i.indpred is null
          and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'id')
    union all select 'public.ai_retry_create_session must return jsonb, the created row'
    where exists (
      select from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.proname = 'ai_retry_create_session'
        and p.prorettype <> 'jsonb'::regtype));
begin
  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed:\n  - ' || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;
