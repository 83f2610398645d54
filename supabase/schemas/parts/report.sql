create function ai_retry.tell(
  p_user_id uuid, p_generation_id uuid, p_status text, p_duration_ms integer, p_code text, p_message text,
  p_number integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_status <> 'success' then
    begin
      set constraints all deferred;
      perform ai_retry.app_write(p_generation_id, p_status, null, p_duration_ms, p_at);
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        raise warning 'ai-retry: the app refused the status % (%): generation %, attempt %',
          p_status, sqlstate, p_generation_id, p_number;
    end;
  end if;
  if p_status = 'success' or p_message is not null then
    begin
      set constraints all deferred;
      perform ai_retry.app_report(
        p_user_id, p_generation_id,
        case when p_status = 'success' then 'ai_generation_succeeded' else 'ai_generation_failed' end,
        p_code, p_message, p_number, p_at);
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        raise warning 'ai-retry: the app refused an event or error log (%): generation %, attempt %',
          sqlstate, p_generation_id, p_number;
    end;
  end if;
end
$$;
comment on function ai_retry.tell(uuid, uuid, text, integer, text, text, integer, timestamptz) is
  'Informs the app of an attempt that ended: the generation''s status, unless it is null, or success, which its session '
  'has written; and an event, of a failure only with a message, which is an error log, too. What the app refuses, by '
  'whatever error, is noted in the database''s log: it keeps no attempt open, and no answer from its place. Only a lock or '
  'a conflict undoes the transaction, which is sent again.';
