-- A writer that sells credits: asking takes one, a trigger gives it back when the status turns to failed, a ledger notes
-- both. While a retry waits or runs the status must stay as it is, or each failed retry would pay out again.
--
-- flags: --generations public.ai_generations --sessions none --error-logs none --events none
-- flags: --column prompt_data=prompt,tone --column model=engine --column session_id=none --column updated_at=none
-- flags: --status queued=none --status processing=none,pending --status success=completed --status error=failed
-- flags: --set result=output.text --set finished_at=now --yes
-- privileges: legacy
-- asks: a haiku on rain
-- old: error 1, success 1, processing 1

-- ## schema
create table public.credit_balances (
  user_id uuid primary key references auth.users (id) on delete cascade,
  credits integer not null check (credits >= 0)
);
create table public.credit_ledger (
  id bigserial primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  generation_id uuid,
  delta integer not null,
  reason text not null,
  at timestamptz not null default now()
);
create table public.ai_generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status varchar(20) not null default 'pending',
  engine text not null default 'small',
  prompt text not null,
  tone text,
  result text,
  finished_at timestamptz,
  created_at timestamptz not null default now(),
  constraint known_status check (status in ('pending', 'completed', 'failed')),
  constraint finished_has_result check (status <> 'completed' or (result is not null and finished_at is not null))
);
create function public.take_credit() returns trigger language plpgsql security definer set search_path = public as $$
begin
  update credit_balances set credits = credits - 1 where user_id = new.user_id;
  insert into credit_ledger (user_id, generation_id, delta, reason) values (new.user_id, new.id, -1, 'asked');
  return new;
end
$$;
create function public.give_credit_back() returns trigger language plpgsql security definer set search_path = public as $$
begin
  update credit_balances set credits = credits + 1 where user_id = new.user_id;
  insert into credit_ledger (user_id, generation_id, delta, reason) values (new.user_id, new.id, 1, 'refund');
  return new;
end
$$;
create trigger take_credit after insert on public.ai_generations for each row execute function public.take_credit();
create trigger give_credit_back after update of status on public.ai_generations for each row
  when (new.status = 'failed' and old.status is distinct from 'failed') execute function public.give_credit_back();
alter table public.credit_balances enable row level security;
alter table public.credit_ledger enable row level security;
alter table public.ai_generations enable row level security;
create policy "own balance" on public.credit_balances for select to authenticated using (user_id = auth.uid());
create policy "own texts" on public.ai_generations for select to authenticated using (user_id = auth.uid());
create policy "ask" on public.ai_generations for insert to authenticated
  with check (user_id = auth.uid() and status = 'pending');

-- ## user
insert into public.credit_balances values (:user, 10);

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.credit_balances values ('00000000-0000-4000-8000-00000000000a', 10);
insert into public.ai_generations (user_id, prompt, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'a limerick', now() - interval '3 days'),
  ('00000000-0000-4000-8000-00000000000a', 'a sonnet', now() - interval '2 days'),
  ('00000000-0000-4000-8000-00000000000a', 'an ode', now() - interval '1 day');
update public.ai_generations set status = 'failed' where prompt = 'a sonnet';
update public.ai_generations set status = 'completed', result = 'There was…', finished_at = now() where prompt = 'a limerick';

-- ## call as authenticated
insert into public.ai_generations (user_id, prompt, tone) values (:user, 'a haiku on rain', 'calm') returning id;

-- ## fail as service_role
update public.ai_generations set status = 'failed' where id = :generation;

-- ## output
{"text": "Rain upon the roof"}

-- ## expect migrated
-- No credit moved: ten, three asked, one refund.
select credits = 8 from public.credit_balances where user_id = '00000000-0000-4000-8000-00000000000a';
-- The ledger says the same.
select count(*) = 4 and sum(delta) = -2 from public.credit_ledger;

-- ## expect failed
-- The app's own failure paid one credit back, and two failed retries paid nothing.
select credits = 10 from public.credit_balances where user_id = :user;
-- The ledger has one refund.
select count(*) = 1 from public.credit_ledger where generation_id = :generation and reason = 'refund';

-- ## expect succeeded
-- The text is in the app's own column, and says when.
select status = 'completed' and result = 'Rain upon the roof' and finished_at > created_at
from public.ai_generations where id = :generation;
-- Nothing was paid out, and nothing was taken, by a retry.
select credits = 10 from public.credit_balances where user_id = :user;

-- ## expect accepted
-- The status stays as it is while a retry waits.
select status = 'failed' from public.ai_generations where id = :generation;

-- ## expect queued
-- Two asked, two refunds, none by ours.
select credits = 10 from public.credit_balances where user_id = :user;
-- The text is there.
select result = 'Rain upon the roof' from public.ai_generations where id = :generation;

-- ## expect recovered
-- Twenty texts, and balances that only the app's own calls moved.
select count(*) = 20 and bool_and(result is not null) from public.ai_generations
where id = any(:generations) and status = 'completed';
-- Each generation has one charge and one refund.
select count(*) = 40 and sum(delta) = 0 from public.credit_ledger where generation_id = any(:generations);

-- ## break
alter table public.ai_generations drop constraint known_status;
update public.ai_generations set status = 'paused' where prompt in ('an ode', 'a sonnet');

-- ## doctor names
paused
2
