create function ai_retry.found(p_generation_id uuid, p_error jsonb, p_rule jsonb) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c_longest constant integer := 33554432;  -- bytes of a column; a reader needs several times as many
  v_generation jsonb;
  v_snapshot jsonb;
begin
  v_generation := ai_retry.app_read(p_generation_id);
  if v_generation is null then
    return null;
  end if;
  v_snapshot := ai_retry.snapshot(v_generation - 'prompt_data', p_rule, null, pg_catalog.clock_timestamp());
  return pg_catalog.jsonb_build_object(
    'id', p_generation_id, 'error', p_error,
    'calls', coalesce((
      select c.calls from public.ai_retry_attempts c
      where c.generation_id = p_generation_id and c.calls is not null order by c.number desc limit 1), '[]'),
    'snapshot', v_snapshot - '{generation,session}'::text[] || case
      when v_snapshot -> 'stored_answer' <> 'null' then
        pg_catalog.jsonb_build_object('stored_answer', v_snapshot -> 'stored_answer' || '{"output": null}')
      else '{}' end,
    'generation', (
      select pg_catalog.jsonb_object_agg(
        e.key, case when pg_catalog.octet_length(e.value::text) <= c_longest then e.value::text end)
      from pg_catalog.jsonb_each(v_generation - '{session,can_create_session,hidden}'::text[]) e
    ));
exception
  when data_exception or cardinality_violation or program_limit_exceeded or plpgsql_error then
    return pg_catalog.jsonb_build_object('id', p_generation_id, 'refused_by', sqlstate);
end
$$;
revoke all on function ai_retry.found(uuid, jsonb, jsonb) from public, anon, authenticated;
grant execute on function ai_retry.found(uuid, jsonb, jsonb) to service_role;
comment on function ai_retry.found(uuid, jsonb, jsonb) is
  'A generation as a search returns it: its last error; the snapshot that a decision needs, without session and output; and '
  'each of its columns as JSON in a string, null when it is too long. So one that a reader can''t read spoils no other one. '
  'Where reading it fails, only its id and the SQLSTATE.';
