create function ai_retry.announce(
  p_type text, p_subject text, p_data jsonb, p_at timestamptz, p_generation_id uuid default null,
  p_number integer default null
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.ai_retry_outbox (type, subject, data, happened_at, due_at, generation_id, number)
  select 'ai_retry.' || p_type, p_subject, p_data, greatest(p_at, (
      -- After the one before, also where the clock was set back.
      select max(o.happened_at) + interval '1 microsecond' from public.ai_retry_outbox o where o.subject = p_subject)),
    p_at, p_generation_id, p_number
  from public.ai_retry_installation i where i.webhook_until > p_at;
end
$$;
revoke all on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) from public, anon, authenticated;
grant execute on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) to service_role;
comment on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) is
  'Writes a message for the webhook, if processes deliver messages here.';
