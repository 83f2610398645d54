create function public.ai_retry_take(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{limit,visibility_seconds,rule}');
  v_message record;
  v_taken jsonb := '[]'::jsonb;
  c_uuid constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
begin
  if not ai_retry.has_queue() then
    return null;
  end if;
  for v_message in
    select m.msg_id, m.message
    from pgmq.read('ai_retry', (v_request ->> 'visibility_seconds')::integer, (v_request ->> 'limit')::integer) m
  loop
    if v_message.message ->> 'user_id' ~ c_uuid and v_message.message ->> 'generation_id' ~ c_uuid then
      begin
        v_taken := v_taken || pg_catalog.jsonb_build_object(
          'message_id', v_message.msg_id, 'user_id', v_message.message -> 'user_id',
          'generation_id', v_message.message -> 'generation_id',
          -- As text: what Python can't hold in one of them, such as 3,000 brackets, must not hide the others.
          'snapshot', ai_retry.snapshot(
            ai_retry.app_read((v_message.message ->> 'generation_id')::uuid), v_request -> 'rule', null,
            pg_catalog.clock_timestamp())::text);
      exception when others or assert_failure then  -- one bad row stops no user's line: its message comes again
        raise warning 'ai-retry: a generation could not be read (%): %', sqlstate, v_message.message ->> 'generation_id';
      end;
    else
      perform pgmq.delete('ai_retry', v_message.msg_id);  -- nothing of ours
    end if;
  end loop;
  return v_taken;
end
$$;
revoke all on function public.ai_retry_take(text) from public, anon, authenticated;
grant execute on function public.ai_retry_take(text) to service_role;
comment on function public.ai_retry_take(text) is
  'Takes messages, hides them from other workers for a while, and returns them with the snapshots of what they are about. '
  'Null without a queue.';
