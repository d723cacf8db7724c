CREATE TYPE "CommissionStatus" AS ENUM ('PENDING', 'APPROVED', 'PAID');

ALTER TABLE "commissions" ADD COLUMN "status" "CommissionStatus" NOT NULL DEFAULT 'PENDING';
