create function ai_retry.create_generation(
  p_user_id uuid, p_generation_id uuid, p_new jsonb, p_status text, p_at timestamptz
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c_is_there constant text := 'ARDUP';
  v_role constant text := pg_catalog.current_setting('role');
  v_generation jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
begin
  set constraints all deferred;
  if ai_retry.app_create_generation(p_user_id, p_generation_id, (p_new -> 'columns') || pg_catalog.jsonb_build_object(
    'prompt_data', p_new -> 'prompt_data', 'model', p_new -> 'model')) is not true
  then
    raise exception 'ai-retry: there is such a generation' using errcode = c_is_there;
  end if;
  if pg_catalog.current_setting('role') <> v_role then
    perform pg_catalog.set_config('role', v_role, true);  -- the app's function has set one for its own tables
  end if;
  v_generation := ai_retry.app_read(p_generation_id);
  if v_generation ->> 'status' <> p_status then
    perform ai_retry.app_write(p_generation_id, p_status, null, null, p_at);
    v_generation := ai_retry.app_read(p_generation_id);
  end if;
  set constraints all immediate;
  if (v_generation ->> 'id', v_generation ->> 'user_id', v_generation -> 'hidden')
    is distinct from (p_generation_id::text, p_user_id::text, 'false'::jsonb)
  then
    raise exception 'ai-retry: the generation is not as asked' using errcode = 'ARGEN';
  elsif (v_generation -> 'can_create_session')::boolean is not true then
    raise exception 'ai-retry: no session could be created' using errcode = 'ARSES';
  end if;
  return '{"created": true}'::jsonb;
exception when others or assert_failure or query_canceled then
  get stacked diagnostics
    v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
  if pg_catalog.left(v_sqlstate, 2) in ('08', '25', '40', '53', '57', '58', 'XX') or v_sqlstate in ('55006', '55P03') then
    raise;  -- these pass by themselves: nothing is written, and the change is sent again
  elsif v_sqlstate = c_is_there then
    return '{"created": false}'::jsonb;
  end if;
  return pg_catalog.jsonb_build_object('created', false, 'refused', pg_catalog.jsonb_build_object(
    'sqlstate', v_sqlstate, 'name', coalesce(nullif(v_constraint, ''), nullif(v_column, ''))));
end
$$;
revoke all on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) to service_role;
comment on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) is
  'Creates a generation through the binding, for its first call, and writes its status where the app has written another '
  'one. Nothing stays unless it is there as asked: its user''s, visible, and able to get a session. refused: what refused '
  'it, an error or the app''s own rule.';
