ALTER TABLE "targets" ADD CONSTRAINT "targets_period_check" CHECK ("period_end" > "period_start");
