-- The rehearsal: what ai-retry writes for a failure and a success, through the binding, rolled back. What refuses it
-- shows now.

do $rehearsal$
declare
  v_user_id uuid;
  v_id uuid;
  v_session_id text;
  v_step text := 'find a generation';
begin
  begin
    select g.user_id, g.id into v_user_id, v_id
      from public.generations g join auth.users u on u.id = g.user_id
      where g.status in ('error', 'timeout')
        and not exists (
          select from public.generations o where o.user_id = g.user_id and o.status in ('queued', 'processing'))
      limit 1;
    if not found then
      select u.id into v_user_id from auth.users u
        where not exists (select from public.generations o where o.user_id = u.id) limit 1;
      if not found then
        insert into auth.users (id) values (gen_random_uuid()) returning id into v_user_id;
      end if;
      insert into public.generations (user_id, status) values (v_user_id, 'error') returning id into v_id;
    end if;
    perform set_config('role', 'service_role', true)  -- with its own grants only
      where pg_has_role('service_role', case when current_setting('server_version_num')::integer < 160000
        then 'member' else 'set' end);
    for v_step in select * from unnest(array['begin', 'fail', 'accept', 'expire', 'begin', 'succeed']) loop
      set constraints all deferred;
      if ai_retry.app_lock(v_id, '5s') is null then
        raise exception 'service_role can''t read the generation: it has to bypass row level security';
      end if;
      if v_step in ('begin', 'accept') then
        perform ai_retry.app_write(
          v_id, case v_step when 'begin' then 'processing' else 'queued' end, null, null, clock_timestamp());
      elsif v_step <> 'succeed' then
        perform ai_retry.app_write(
          v_id, case v_step when 'fail' then 'error' else 'timeout' end, null, 1, clock_timestamp());
        perform ai_retry.app_report(
          v_user_id, v_id, 'ai_generation_failed', 'AI_INVALID_OUTPUT',
          'The AI provider''s answer does not have the form asked for.', 2, clock_timestamp());
      else
        perform ai_retry.app_report(v_user_id, v_id, 'ai_generation_succeeded', null, null, 2, clock_timestamp());
        -- A session function of the app's own may refuse an output that no provider gave.
        if obj_description(to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)'), 'pg_proc')
          like 'Created by ai-retry%'
        then
          v_session_id := ai_retry.app_create_session(v_user_id, v_id, '{}', '{"number": 2}') ->> 'id';
          perform ai_retry.app_write(v_id, 'success', v_session_id, 1, clock_timestamp());
          if ai_retry.app_read(v_id) ->> 'session_id' is distinct from v_session_id then
            raise exception 'a trigger undoes what was written';
          end if;
        end if;
      end if;
      set constraints all immediate;
    end loop;
    raise exception using errcode = 'ARROK';
  exception
    when sqlstate 'ARROK' then
      null;  -- rolled back, as meant
    when others then
      if v_step = 'find a generation' then
        raise notice 'ai-retry: no rehearsal: there is no failed generation yet and none could be inserted (%)', sqlstate;
      else
        raise exception using
          errcode = 'object_not_in_prerequisite_state',
          message = format(
            E'ai-retry can''t be installed yet; nothing was changed:\n  - rehearsing "%s": %s; change what refuses it '
            'so that it allows what ai-retry writes (statuses queued, processing, success, error, timeout; events '
            'ai_generation_succeeded, ai_generation_failed; error types AI_*, SESSION_REJECTED, LEASE_LOST), then apply '
            'again', v_step, sqlerrm);
      end if;
  end;
end
$rehearsal$;
