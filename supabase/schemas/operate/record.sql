create function ai_retry.record(p_action jsonb, p_outcome text, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.ai_retry_actions as a (id, operator, role, action, target, user_id, reason, at, ended_at, outcome)
    values (
      (p_action ->> 'id')::uuid, p_action ->> 'operator', p_action ->> 'role', p_action ->> 'action',
      p_action ->> 'target', (p_action ->> 'user_id')::uuid, p_action ->> 'reason', p_at,
      case when p_outcome is not null then p_at end, p_outcome)
    on conflict (id) do update set ended_at = excluded.ended_at, outcome = excluded.outcome where a.outcome is null;
exception when foreign_key_violation then  -- there is no such user, or no more
  perform ai_retry.record(p_action - 'user_id', p_outcome, p_at);
end
$$;
revoke all on function ai_retry.record(jsonb, text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.record(jsonb, text, timestamptz) to service_role;
comment on function ai_retry.record(jsonb, text, timestamptz) is
  'Records what an operator is about to do or, with its outcome, what was done. The first outcome stays.';
