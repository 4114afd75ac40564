-- Revert walrus-bridge:realtime from pg
--
-- Drops what the deploy script made, and that only where nothing else needs it.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
begin
    if obj_description(to_regtype('realtime.user_defined_filter'), 'pg_type') like 'walrus-bridge%' then
        drop type realtime.user_defined_filter;
    end if;
    if obj_description(to_regtype('realtime.equality_op'), 'pg_type') like 'walrus-bridge%' then
        drop type realtime.equality_op;
    end if;
    if obj_description(to_regnamespace('realtime'), 'pg_namespace') like 'walrus-bridge%' then
        begin
            drop schema realtime;
        exception when dependent_objects_still_exist then
            raise notice 'the schema realtime stays: it holds what walrus-bridge did not make';
        end;
    end if;
exception when dependent_objects_still_exist then
    raise exception using
        errcode = 'dependent_objects_still_exist',
        message = 'the types of the schema realtime are in use: ' || sqlerrm,
        hint = 'Drop what uses them, or leave walrus-bridge''s change "realtime" in place.';
end
$$;

commit;
