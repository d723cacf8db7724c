"""The audit trail takes inserts only: triggers refuse UPDATE, DELETE and TRUNCATE."""

from django.db import migrations

FORWARD = """
CREATE FUNCTION opsconsole_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail takes inserts only (% refused)', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_inserts_only BEFORE UPDATE OR DELETE ON opsconsole_auditevent
    FOR EACH ROW EXECUTE FUNCTION opsconsole_audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON opsconsole_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION opsconsole_audit_refuse();
ALTER TABLE opsconsole_auditevent ENABLE ALWAYS TRIGGER audit_inserts_only;
ALTER TABLE opsconsole_auditevent ENABLE ALWAYS TRIGGER audit_no_truncate;
"""
BACKWARD = """
DROP TRIGGER audit_no_truncate ON opsconsole_auditevent;
DROP TRIGGER audit_inserts_only ON opsconsole_auditevent;
DROP FUNCTION opsconsole_audit_refuse();
"""


class Migration(migrations.Migration):
    dependencies = [("opsconsole", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
