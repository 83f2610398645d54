-- Decisions are made in Python (ai_retry.domain.decide) and applied here, where they are compared and counted. These
-- rules are decided here, since only the database sees in time what they are about; each has a test that is marked with
-- its name:
--
--   used         units captured in the window; where the change says so, also the app's own successes in it
--   held         units of all open attempts, over or not; a snapshot leaves out what will be released when it is closed
--   live         running attempts whose lease is valid; for a begin all that run, since what is over has been closed
--   override     a user's own limit and window go before the change's; no window is longer than ten years
--   version      status, highest number, queued or not, its wait, stored answer, override
--   age          a snapshot is at most ten seconds old
--   number       one more than the highest, at least 2; 1 where the begin creates the generation
--   creation     a generation that a begin creates is there, as asked and visible, or nothing of it is
--   copied       user, number, hold and key of a closed attempt are those of its open row
--   over         only what is over by the database's clock, under its token, can be abandoned
--   renewal      never shortens a lease, and never exceeds what the begin allowed
--   once         one open attempt and one success per generation, one generation per session
--   passing      which errors undo a settle, that is sent again; any other is the app's rejection
--   conflicting  which rejections their user can cure
--   again        the same cause rejects the same answer: a longer wait, and no second report
--   late         an answer whose attempt is closed is stored with it, once
--   unreported       an app whose row is locked is informed by a later begin
--   line         whose message is next, and how many messages of one user there are
--   hold         a route that an operator holds opens when its time is over, whatever calls show of it
--   outage       how many failures in a row close a route, and how many calls may run when it opens

-- Parts and the binding live in a schema that the Data API does not expose.

create schema if not exists ai_retry;
revoke all on schema ai_retry from public, anon, authenticated;
grant usage on schema ai_retry to service_role;

comment on schema ai_retry is 'ai-retry: parts of its functions, and the binding to the app''s tables (app_*). Operators only.';
