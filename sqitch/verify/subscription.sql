-- Verify walrus-bridge:subscription on pg

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    ours boolean;
    missing text;
begin
    if to_regclass('realtime.subscription') is null then
        raise exception 'the table realtime.subscription is missing';
    end if;
    ours := coalesce(obj_description('realtime.subscription'::regclass, 'pg_class') like 'walrus-bridge%', false);

    -- A table that others made may lack what came later: action_filter, selected_columns.
    select string_agg(wanted, ', ') into missing
    from unnest(array['id', 'subscription_id', 'entity', 'filters', 'claims'] || case when ours then
        array['claims_role', 'created_at', 'action_filter', 'selected_columns'] end) as wanted
    where wanted not in (
        select attname from pg_attribute
        where attrelid = 'realtime.subscription'::regclass and attnum > 0 and not attisdropped);
    if missing is not null then
        raise exception 'the table realtime.subscription lacks %', missing;
    end if;

    if not exists (select from pg_index where indrelid = 'realtime.subscription'::regclass and indisprimary) then
        raise exception 'the table realtime.subscription has no primary key, so its DELETEs cannot be followed';
    end if;

    if ours then
        if not exists (select from pg_index where indexrelid = to_regclass('realtime.subscription_once')
            and indisunique and indisvalid)
        then
            raise exception 'the unique index realtime.subscription_once is missing';
        end if;
        if not exists (select from pg_trigger where tgrelid = 'realtime.subscription'::regclass
            and tgname = 'check_subscription' and tgenabled in ('O', 'A')
            and tgfoid = to_regprocedure('realtime.walrus_check_subscription()'))
        then
            raise exception 'the trigger check_subscription of realtime.subscription is missing or disabled';
        end if;
        select string_agg(wanted, ', ') into missing
        from unnest(array['walrus_role(jsonb)', 'walrus_digest(realtime.user_defined_filter[],text[])',
            'walrus_check_filter(regclass,regrole,jsonb)',
            'walrus_check_pattern(text,regtype,regtype,text,text,text)']) as wanted
        where to_regprocedure('realtime.' || wanted) is null;
        if missing is not null then
            raise exception 'functions are missing in the schema realtime: %', missing;
        end if;
    end if;
end
$$;

rollback;
