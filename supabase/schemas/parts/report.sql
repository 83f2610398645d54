create function ai_retry.report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_number integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  set constraints all deferred;
  perform ai_retry.app_report(p_user_id, p_generation_id, p_event, p_code, p_message, p_number, p_at);
  set constraints all immediate;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others or assert_failure or query_canceled then
    raise warning 'ai-retry: the app refused an event or error log (%): generation %, attempt %',
      sqlstate, p_generation_id, p_number;
end
$$;
comment on function ai_retry.report(uuid, uuid, text, text, text, integer, timestamptz) is
  'Reports an event to the app; one that the app refuses, by whatever error, is noted in the database''s log, and changes '
  'nothing. Only a lock or a conflict undoes the transaction, which is sent again.';

create function ai_retry.tell(
  p_user_id uuid, p_generation_id uuid, p_status text, p_duration_ms integer, p_code text, p_message text,
  p_number integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_status is not null then
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
  if p_message is not null then
    perform ai_retry.report(
      p_user_id, p_generation_id, 'ai_generation_failed', p_code, p_message, p_number, p_at);
  end if;
end
$$;
comment on function ai_retry.tell(uuid, uuid, text, integer, text, text, integer, timestamptz) is
  'Informs the app of an attempt that ended without a session: the generation''s status, and, with a message, an error log '
  'and an event. A status that the app refuses keeps no attempt open, and no answer from its place.';
