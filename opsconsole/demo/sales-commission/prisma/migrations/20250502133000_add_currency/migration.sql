ALTER TABLE "commissions" ADD COLUMN "currency" CHAR(3);

ALTER TABLE "teams" ADD COLUMN "currency" CHAR(3) NOT NULL DEFAULT 'EUR';
