-- A team's target can be split among its members: targets roll up into a parent.
CREATE TYPE "DistributionMethod" AS ENUM ('EVEN', 'BY_ROLE', 'MANUAL');

ALTER TABLE "targets" ADD COLUMN "parent_target_id" INTEGER;

ALTER TABLE "targets" ADD COLUMN "team_target" BOOLEAN NOT NULL DEFAULT false;

ALTER TABLE "targets" ADD COLUMN "distribution_method" "DistributionMethod" NOT NULL DEFAULT 'EVEN';

ALTER TABLE "targets" ADD CONSTRAINT "targets_parent_target_id_fkey" FOREIGN KEY ("parent_target_id") REFERENCES "targets"("id") ON DELETE SET NULL ON UPDATE CASCADE;
