//! Policies of `realtime.messages` as people write them, and a few that nobody should.

/// A role and its policies on `realtime.messages`; `{r}` stands for the role.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) decided: How,
}

/// What decides those of its questions that grant what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Without Postgres.
    Here,
    /// At least one of them by Postgres.
    Postgres,
}
pub(super) use How::{Here, Postgres};

pub(super) const fn case(name: &'static str, decided: How, sql: &'static str) -> Case {
    Case { name, sql, decided }
}

pub(super) const CASES: &[Case] = &[
    case("nothing", Here, ""),
    case(
        "anybody",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (true);
         create policy {r}_w on realtime.messages for insert to {r} with check (true);",
    ),
    case(
        "own_topic",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (realtime.topic() = 'room:' || auth.uid());
         create policy {r}_w on realtime.messages for insert to {r} with check ((select realtime.topic()) = 'room:' || (select auth.uid()));",
    ),
    case(
        "topic_column",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (topic = 'lobby');
         create policy {r}_w on realtime.messages for insert to {r} with check (topic = realtime.topic() and topic like 'room:%');",
    ),
    case(
        "members",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            exists (select 1 from members m where m.user_id = auth.uid() and m.room = realtime.topic()));
         create policy {r}_w on realtime.messages for insert to {r} with check (
            exists (select from members m where m.user_id = (select auth.uid()) and m.room = topic and m.can_write));",
    ),
    case(
        "members_in",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            realtime.topic() in (select room from members where user_id = auth.uid()) and extension = 'broadcast');
         create policy {r}_w on realtime.messages for insert to {r} with check (
            (select auth.uid()) in (select user_id from members where room = (select realtime.topic())));",
    ),
    case(
        "extensions",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (extension in ('broadcast', 'presence'));
         create policy {r}_w on realtime.messages for insert to {r} with check (messages.extension = 'presence');",
    ),
    case(
        "extension_each",
        Here,
        "create policy {r}_b on realtime.messages for select to {r} using (realtime.messages.extension = 'broadcast' and realtime.topic() like 'room:%');
         create policy {r}_p on realtime.messages for select to {r} using (realtime.messages.extension in ('presence') and realtime.topic() = 'lobby');
         create policy {r}_w on realtime.messages for insert to {r} with check (extension = any (array['broadcast']));",
    ),
    case(
        "org",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using ((auth.jwt() ->> 'org') = split_part(realtime.topic(), ':', 1));
         create policy {r}_w on realtime.messages for insert to {r} with check (
            auth.jwt() -> 'app_metadata' ->> 'role' = 'admin' and split_part(topic, ':', 1) = auth.jwt() ->> 'org');",
    ),
    case(
        "headers",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            current_setting('request.headers', true)::json ->> 'x-room' = realtime.topic());
         create policy {r}_w on realtime.messages for insert to {r} with check (
            current_setting('request.headers')::json ->> 'x-room' is not null);",
    ),
    case(
        "raw_settings",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            current_setting('realtime.topic', true) = 'room:1' or current_setting('realtime.topic') = '');
         create policy {r}_w on realtime.messages for insert to {r} with check (
            current_setting('request.jwt.claim.sub', true) = '22222222-2222-4222-8222-222222222222'
            and current_setting('request.jwt.claim.role', true) = '{r}' and current_setting('role') = current_user);",
    ),
    case(
        "claims_setting",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            current_setting('request.jwt.claims', true)::jsonb ->> 'org' is not null);
         create policy {r}_w on realtime.messages for insert to {r} with check (
            (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid is not null);",
    ),
    case(
        "restrictive",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (true);
         create policy {r}_x on realtime.messages as restrictive for select to {r} using (realtime.topic() <> 'lobby');
         create policy {r}_w on realtime.messages for insert to {r} with check (true);
         create policy {r}_y on realtime.messages as restrictive for insert to {r} with check (extension <> 'presence');
         create policy {r}_z on realtime.messages as restrictive for all to {r} using (true) with check (auth.uid() is not null);",
    ),
    case(
        "only_restrictive",
        Here,
        "create policy {r}_x on realtime.messages as restrictive for all to {r} using (true);",
    ),
    case(
        "for_all",
        Here,
        "create policy {r}_a on realtime.messages for all to {r} using (realtime.topic() like 'room:%');",
    ),
    case(
        "for_all_check",
        Here,
        "create policy {r}_a on realtime.messages for all to {r} using (realtime.topic() like 'room:%') with check (realtime.topic() = 'lobby');",
    ),
    case(
        "several",
        Here,
        "create policy {r}_a on realtime.messages for select to {r} using (topic = 'lobby');
         create policy {r}_b on realtime.messages for all to {r} using (topic = 'room:1') with check (false);
         create policy {r}_c on realtime.messages for insert to {r} with check (topic = 'acme:general');",
    ),
    case(
        "other_commands",
        Here,
        "create policy {r}_a on realtime.messages for update to {r} using (true) with check (true);
         create policy {r}_b on realtime.messages for delete to {r} using (true);",
    ),
    case(
        "definer",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (is_member(realtime.topic()));
         create policy {r}_w on realtime.messages for insert to {r} with check ((select may_write()));",
    ),
    case(
        "table_with_policies",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            exists (select from rooms where rooms.topic = realtime.messages.topic));
         create policy {r}_w on realtime.messages for insert to {r} with check (
            exists (select from rooms r where r.topic = realtime.topic() and r.owner = auth.uid()));",
    ),
    case(
        "not_banned",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            not exists (select from bans b where b.user_id = auth.uid()));
         create policy {r}_w on realtime.messages for insert to {r} with check (true);
         create policy {r}_x on realtime.messages as restrictive for insert to {r} with check (
            auth.uid() not in (select user_id from bans));",
    ),
    case(
        "clock",
        Postgres,
        "create policy {r}_r on realtime.messages for select to {r} using (
            not exists (select from bans b where b.user_id = auth.uid() and b.until > now()));
         create policy {r}_w on realtime.messages for insert to {r} with check (inserted_at > now() - interval '1 day');",
    ),
    case(
        "failing_cast",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            split_part(realtime.topic(), ':', 2)::uuid = auth.uid());
         create policy {r}_w on realtime.messages for insert to {r} with check (
            extension = 'presence' or split_part(topic, ':', 2)::int = 1);",
    ),
    case(
        "failing_beside",
        Here,
        "create policy {r}_a on realtime.messages for select to {r} using (topic = 'lobby');
         create policy {r}_b on realtime.messages for select to {r} using (split_part(topic, ':', 2)::int = 1);
         create policy {r}_c on realtime.messages for insert to {r} with check (split_part(topic, ':', 2)::int = 1);
         create policy {r}_d on realtime.messages for insert to {r} with check (topic = 'lobby');",
    ),
    case(
        "failing_subject",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (extension = 'presence' or topic = auth.uid()::text);
         create policy {r}_w on realtime.messages for insert to {r} with check (extension = 'presence' or topic = auth.uid()::text);",
    ),
    case(
        "failing_restrictive",
        Here,
        "create policy {r}_w on realtime.messages for insert to {r} with check (extension = 'broadcast');
         create policy {r}_y on realtime.messages as restrictive for insert to {r} with check (extension = 'broadcast' or topic::int = 1);",
    ),
    case(
        "defaults",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (private is false and payload is null and event is null);
         create policy {r}_w on realtime.messages for insert to {r} with check (private);",
    ),
    case(
        "identity",
        Postgres,
        "create policy {r}_r on realtime.messages for select to {r} using (id is not null and updated_at <= now());
         create policy {r}_w on realtime.messages for insert to {r} with check (to_jsonb(messages) ->> 'topic' = 'lobby');",
    ),
    case(
        "plpgsql",
        Postgres,
        "create policy {r}_r on realtime.messages for select to {r} using (slow_path(realtime.topic()));
         create policy {r}_w on realtime.messages for insert to {r} with check (slow_path(topic) and extension = 'broadcast');",
    ),
    case(
        "regexp",
        Postgres,
        "create policy {r}_r on realtime.messages for select to {r} using (realtime.topic() ~ '^room:[0-9]+$');
         create policy {r}_w on realtime.messages for insert to {r} with check (topic ~* '^ROOM:' and extension = 'presence');",
    ),
    case(
        "topic_parts",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            substring(realtime.topic() from 1 for 5) = 'room:' and length(realtime.topic()) > 6);
         create policy {r}_w on realtime.messages for insert to {r} with check (
            replace(realtime.topic(), 'room:', '') = auth.uid()::text or starts_with(topic, 'acme'));",
    ),
    case(
        "array_claim",
        Here,
        "create policy {r}_r on realtime.messages for select to {r} using (
            coalesce(auth.jwt() -> 'rooms' ? realtime.topic(), false));
         create policy {r}_w on realtime.messages for insert to {r} with check (
            realtime.topic() in (select jsonb_array_elements_text(auth.jwt() -> 'rooms')));",
    ),
    case(
        "no_insert",
        Here,
        "revoke insert on realtime.messages from {r};
         create policy {r}_a on realtime.messages for all to {r} using (true);",
    ),
    case(
        "insert_of_columns",
        Here,
        "revoke insert on realtime.messages from {r}; grant insert (topic, extension) on realtime.messages to {r};
         create policy {r}_a on realtime.messages for all to {r} using (true);",
    ),
    case(
        "insert_of_one_column",
        Here,
        "revoke insert on realtime.messages from {r}; grant insert (topic) on realtime.messages to {r};
         create policy {r}_a on realtime.messages for all to {r} using (true);",
    ),
    case(
        "no_select",
        Here,
        "revoke select on realtime.messages from {r};
         create policy {r}_a on realtime.messages for all to {r} using (true);",
    ),
    case(
        "select_of_id",
        Here,
        "revoke select on realtime.messages from {r}; grant select (id) on realtime.messages to {r};
         create policy {r}_a on realtime.messages for all to {r} using (topic = 'lobby');",
    ),
    case(
        "no_usage",
        Here,
        "revoke usage on schema realtime from {r};
         create policy {r}_a on realtime.messages for all to {r} using (true);",
    ),
    case("bypass", Here, "alter role {r} bypassrls;"),
    case(
        "heir",
        Here,
        "create role {r}_parent; grant {r}_parent to {r};
         create policy {r}_a on realtime.messages for all to {r}_parent using (topic = 'lobby');",
    ),
];
