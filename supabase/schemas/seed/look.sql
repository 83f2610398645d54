-- Names every obstacle in the app's tables in one message, before anything is changed.

do $look$
declare
  v_obstacles text[] := '{}';
  v_row record;
begin
  for v_row in
    select c.relname
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace
      and c.relname in ('generations', 'sessions', 'generation_error_logs', 'events')
      and c.relkind not in ('r', 'p')
  loop
    v_obstacles := v_obstacles || format('public.%I must be a table', v_row.relname);
  end loop;

  for v_row in
    select e.tab, e.col, w.types, e.required, a.atttypid, t.typname, t.typtype,
      pg_catalog.pg_get_expr(d.adbin, d.adrelid) as def
    from (values
      ('generations', 'id', '{uuid}', true), ('generations', 'user_id', '{uuid}', true),
      ('generations', 'status', '{text,varchar}', false), ('generations', 'model', '{text,varchar}', false),
      ('generations', 'prompt_data', '{jsonb,json}', false),
      ('generations', 'duration_ms', '{int4,int8,numeric,float8}', false),
      ('generations', 'session_id', '{uuid}', false), ('generations', 'created_at', '{timestamptz}', false),
      ('generations', 'updated_at', '{timestamptz}', false), ('sessions', 'id', '{uuid}', true),
      ('generation_error_logs', 'generation_id', '{uuid}', false), ('generation_error_logs', 'user_id', '{uuid}', false),
      ('generation_error_logs', 'error_type', '{text,varchar}', false),
      ('generation_error_logs', 'error_message', '{text,varchar}', false),
      ('generation_error_logs', 'created_at', '{timestamptz}', false), ('events', 'user_id', '{uuid}', false),
      ('events', 'event_type', '{text,varchar}', false), ('events', 'event_data', '{jsonb,json}', false),
      ('events', 'created_at', '{timestamptz}', false)
    ) as e (tab, col, words, required)
    cross join lateral (select e.words::text[] as types) w
    join pg_catalog.pg_class c on c.relname = e.tab and c.relnamespace = 'public'::regnamespace
    left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = e.col and not a.attisdropped
    left join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    order by e.tab, e.col
  loop
    if v_row.typname is null and v_row.required then
      v_obstacles := v_obstacles || format('public.%I needs a column %I of type %s', v_row.tab, v_row.col, v_row.types[1]);
    elsif v_row.typname is not null and v_row.typtype = 'e' then
      v_obstacles := v_obstacles || format(
        E'public.%1$I.%2$I is the enum %3$s and must be text; run first:\n'
        '      alter table public.%1$I alter column %2$I drop default;\n'
        '      alter table public.%1$I alter column %2$I type text using %2$I::text;%4$s',
        v_row.tab, v_row.col, format_type(v_row.atttypid, null),
        case when v_row.def is null then '' else format(
          E'\n      alter table public.%I alter column %I set default %s;',
          v_row.tab, v_row.col, split_part(v_row.def, '::', 1)) end);
    elsif v_row.typname is not null and not v_row.typname = any (v_row.types) then
      v_obstacles := v_obstacles || format('public.%I.%I is %s and must be %s',
        v_row.tab, v_row.col, format_type(v_row.atttypid, null), array_to_string(v_row.types, ' or '));
    end if;
  end loop;

  for v_row in
    select c.relname from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('generations', 'sessions') and c.relkind = 'r'
      and not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisunique and i.indnkeyatts = 1 and i.indpred is null
          and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'id'
      )
  loop
    v_obstacles := v_obstacles || format('public.%I.id must be unique: make it the primary key', v_row.relname);
  end loop;
  if exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname = 'ai_retry_create_session'
      and p.prorettype <> 'jsonb'::regtype
  ) then
    v_obstacles := v_obstacles || 'public.ai_retry_create_session must return jsonb, the created row'::text;
  end if;

  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed:\n  - ' || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;
