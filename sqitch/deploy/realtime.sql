-- Deploy walrus-bridge:realtime to pg
--
-- The schema and the types of a filter. What is there already, Supabase's for example, stays as it is; what is made
-- here carries a comment that begins with "walrus-bridge", and only that is ever dropped again.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
begin
    if to_regnamespace('realtime') is null then
        create schema realtime;
        comment on schema realtime is 'walrus-bridge: subscriptions to changes';
    end if;

    if to_regtype('realtime.equality_op') is null then
        create type realtime.equality_op as enum (
            'eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in',
            'like', 'ilike', 'is', 'match', 'imatch', 'isdistinct',
            'not_in', 'not_like', 'not_ilike', 'not_is', 'not_match', 'not_imatch');
        comment on type realtime.equality_op is 'walrus-bridge: how a filter compares a column with its value';
    end if;

    if to_regtype('realtime.user_defined_filter') is null then
        create type realtime.user_defined_filter as (
            column_name text,
            op realtime.equality_op,
            value text);
        comment on type realtime.user_defined_filter is
            'walrus-bridge: one condition of a subscription; the value is the text of one of the column''s type';
    end if;
end
$$;

commit;
