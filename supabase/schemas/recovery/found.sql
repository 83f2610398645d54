create function ai_retry.last_error(p_generation_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_error jsonb;
begin
  select pg_catalog.jsonb_build_object(
      'code', coalesce(a.code, 'UNKNOWN'), 'reason', a.reason, 'at', a.closed_at, 'ours', true)
    into v_error
    from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
    order by a.number desc limit 1;
  if not found then
    v_error := ai_retry.app_last_error(p_generation_id);
    v_error := pg_catalog.jsonb_build_object(
      'code', coalesce(v_error ->> 'code', 'UNKNOWN'), 'reason', null, 'at', v_error -> 'at', 'ours', false)
      where v_error is not null;
  end if;
  return v_error;
end
$$;
comment on function ai_retry.last_error(uuid) is
  'The last error of a generation: of our last attempt that has one, else the app''s last one, without its message.';

create function ai_retry.found(p_generation_id uuid, p_error jsonb, p_rule jsonb)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  c_longest constant integer := 33554432;  -- bytes of a column; a reader needs several times as many
  v_generation jsonb;
  v_snapshot jsonb;
  v_sqlstate text;
begin
  v_generation := ai_retry.app_read(p_generation_id);
  if v_generation is null then
    return null;
  end if;
  v_snapshot := ai_retry.snapshot(v_generation - 'prompt_data', p_rule, null, pg_catalog.clock_timestamp());
  return pg_catalog.jsonb_build_object(
    'id', p_generation_id, 'error', p_error,
    'calls', (
      select c.calls from public.ai_retry_attempts c
      where c.generation_id = p_generation_id and c.calls is not null order by c.number desc limit 1),
    'snapshot', v_snapshot - '{generation,session}'::text[] || case
      when v_snapshot -> 'stored_answer' <> 'null' then
        pg_catalog.jsonb_build_object('stored_answer', v_snapshot -> 'stored_answer' || '{"output": null}')
      else '{}' end,
    'generation', (
      select pg_catalog.jsonb_object_agg(
        c.name, case when pg_catalog.octet_length(c.value) <= c_longest then c.value end)
      from (
        select e.key as name, e.value::text as value
        from pg_catalog.jsonb_each(v_generation - '{session,can_create_session,hidden}'::text[]) e
      ) c
    ));
exception
  when data_exception or cardinality_violation or program_limit_exceeded or plpgsql_error then
    get stacked diagnostics v_sqlstate = returned_sqlstate;
    return pg_catalog.jsonb_build_object('id', p_generation_id, 'refused_by', v_sqlstate);
end
$$;
comment on function ai_retry.found(uuid, jsonb, jsonb) is
  'A generation as a search returns it: its last error; the snapshot that a decision needs, without session and output; and '
  'each of its columns as JSON in a string, null when it is too long. So one that a reader can''t read spoils no other one. '
  'Where reading it fails, only its id and the SQLSTATE.';
