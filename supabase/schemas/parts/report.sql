create function ai_retry.report(
  p_user_id uuid, p_generation_id uuid, p_status text, p_duration_ms integer, p_code text, p_message text,
  p_number integer, p_at timestamptz
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_what text;
begin
  foreach v_what in array array[
    case when p_status <> 'success' then 'status' end,
    case when p_status = 'success' then 'succeeded' when p_message is not null then 'failed' end]
  loop
    continue when v_what is null;
    begin
      set constraints all deferred;
      if v_what = 'status' then
        perform ai_retry.app_write(p_generation_id, p_status, null, p_duration_ms, p_at);
      else
        perform ai_retry.app_report(
          p_user_id, p_generation_id, 'ai_generation_' || v_what, p_code, p_message, p_number, p_at);
      end if;
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        raise warning 'ai-retry: the app refused % (%): generation %, attempt %',
          case v_what when 'status' then 'the status ' || p_status else 'an event or error log' end,
          sqlstate, p_generation_id, p_number;
    end;
  end loop;
end
$$;
revoke all on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz)
  from public, anon, authenticated;
grant execute on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz) to service_role;
comment on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz) is
  'Informs the app of an attempt that ended: the generation''s status, unless it is null, or success, which its session '
  'has written; and an event, of a failure only with a message, which is an error log, too. What the app refuses, by '
  'whatever error, is noted in the database''s log: it keeps no attempt open, and no answer from its place. Only a lock or '
  'a conflict undoes the transaction, which is sent again.';
