create function ai_retry.outdated(p_generation_ids uuid[], p_gone uuid[], p_before timestamptz, p_at timestamptz)
returns table (generation_id uuid, number integer)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select s.generation_id, s.number
    from (
      select a.generation_id, a.number, a.outcome, a.unreported, a.closed_at, a.request_digest, a.generation_id = any (p_gone) as is_gone,
        w.is_awaited,
        max(a.number) over whole as last_number, bool_or(a.outcome = 'succeeded') over whole as has_succeeded,
        -- A unit of an override's window counts; least() would ignore a null.
        bool_or(a.unreported or w.is_awaited or a.closed_at >= p_before or q.window_seconds is not null and coalesce(
          a.captured_at > p_at - pg_catalog.make_interval(secs => least(q.window_seconds, 315576000)), false))
          over whole as is_needed
      from public.ai_retry_attempts a left join public.ai_retry_quotas q on q.user_id = a.user_id
      cross join lateral (
        select exists (
          select from public.ai_retry_outbox b where b.generation_id = a.generation_id and b.number = a.number) as is_awaited
      ) w
      where a.generation_id = any (p_generation_ids)
      window whole as (partition by a.generation_id)
    ) s
    where case
      when s.is_gone then not s.is_needed and not exists (
        select from public.ai_retry_open o where o.generation_id = s.generation_id)
      else s.has_succeeded and s.outcome <> 'succeeded' and s.number < s.last_number and not s.unreported
        and s.request_digest is null and not s.is_awaited
        and s.closed_at < p_before and not exists (
          select from public.ai_retry_answers w where w.generation_id = s.generation_id and w.number = s.number)
      end;
end
$$;
revoke all on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) to service_role;
comment on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) is
  'Lists the attempts that may be removed: all of a generation that is gone, once none of them counts for its user, is '
  'recent or has still to be reported, to the webhook as well; and those before a success. Never a success or the last '
  'attempt of a generation that is there, nor one with a stored answer or a message that waits, nor a first call by which '
  'its request is recognised.';
