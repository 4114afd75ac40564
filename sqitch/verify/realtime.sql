-- Verify walrus-bridge:realtime on pg

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    missing text;
begin
    if to_regnamespace('realtime') is null then
        raise exception 'the schema realtime is missing';
    end if;
    if to_regtype('realtime.equality_op') is null then
        raise exception 'the type realtime.equality_op is missing';
    end if;
    if to_regtype('realtime.user_defined_filter') is null then
        raise exception 'the type realtime.user_defined_filter is missing';
    end if;

    -- A type that others made may know fewer operators.
    if obj_description('realtime.equality_op'::regtype, 'pg_type') like 'walrus-bridge%' then
        select string_agg(label, ', ') into missing
        from unnest(array['eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in', 'like', 'ilike', 'is', 'match', 'imatch',
            'isdistinct', 'not_in', 'not_like', 'not_ilike', 'not_is', 'not_match', 'not_imatch']) as label
        where label not in (select enumlabel from pg_enum where enumtypid = 'realtime.equality_op'::regtype);
        if missing is not null then
            raise exception 'the type realtime.equality_op lacks %', missing;
        end if;
    end if;

    select string_agg(field, ', ') into missing
    from unnest(array['column_name', 'op', 'value']) as field
    where field not in (
        select a.attname from pg_attribute a join pg_type t on t.typrelid = a.attrelid
        where t.oid = 'realtime.user_defined_filter'::regtype and not a.attisdropped);
    if missing is not null then
        raise exception 'the type realtime.user_defined_filter lacks %', missing;
    end if;
end
$$;

rollback;
