-- Revert walrus-bridge:subscription from pg
--
-- Drops the table only if walrus-bridge made it, and never with subscriptions in it.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    held bigint;
    ours record;
begin
    if obj_description(to_regclass('realtime.subscription'), 'pg_class') like 'walrus-bridge%' then
        lock table realtime.subscription in access exclusive mode;
        select count(*) into held from realtime.subscription;
        if held > 0 then
            raise exception using
                errcode = 'object_in_use',
                message = format('realtime.subscription holds %s subscription(s)', held),
                hint = 'Keep a copy if they are needed, delete them, and revert again.';
        end if;
        drop table realtime.subscription;
    end if;
    for ours in
        select p.oid::regprocedure as signature from pg_proc p
        where p.pronamespace = to_regnamespace('realtime')
            and p.proname in ('walrus_role', 'walrus_digest', 'walrus_check_pattern', 'walrus_check_filter',
                'walrus_check_subscription')
            and obj_description(p.oid, 'pg_proc') like 'walrus-bridge%'
    loop
        execute format('drop function %s', ours.signature);
    end loop;
end
$$;

commit;
