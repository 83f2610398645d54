create function ai_retry.report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_number integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = ''
as $$
declare
  v_sqlstate text;
begin
  set constraints all deferred;
  perform ai_retry.app_report(p_user_id, p_generation_id, p_event, p_code, p_message, p_number, p_at);
  set constraints all immediate;
exception when others or assert_failure then
  get stacked diagnostics v_sqlstate = returned_sqlstate;
  if ai_retry.passes(v_sqlstate) then
    raise;
  end if;
  raise warning 'ai-retry: the app refused an event or error log (%): generation %, attempt %',
    v_sqlstate, p_generation_id, p_number;
end
$$;
comment on function ai_retry.report(uuid, uuid, text, text, text, integer, timestamptz) is
  'Reports an event to the app; one that the app refuses is noted in the database''s log, and changes nothing.';
