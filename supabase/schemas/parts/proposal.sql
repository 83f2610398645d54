create function ai_retry.proposal(p_generation_id uuid, p_user_id uuid, p_at timestamptz) returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return pg_catalog.jsonb_build_object(
    'id', p_generation_id, 'user_id', p_user_id, 'status', 'processing', 'exists', false, 'hidden', false, 'model', null,
    'prompt_data', null, 'session_id', null, 'duration_ms', null, 'created_at', p_at, 'updated_at', null, 'session', null,
    'can_create_session', true);
end
$$;
revoke all on function ai_retry.proposal(uuid, uuid, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.proposal(uuid, uuid, timestamptz) to service_role;
comment on function ai_retry.proposal(uuid, uuid, timestamptz) is
  'A generation that is not there, as a begin finds it that creates it, in the words of ai_retry.app_read.';
