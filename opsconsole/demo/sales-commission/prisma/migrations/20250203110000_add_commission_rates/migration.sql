CREATE TABLE "commission_rates" (
    "id" SERIAL NOT NULL,
    "role" "Role" NOT NULL,
    "rate" DECIMAL(5,4) NOT NULL,
    "valid_from" DATE NOT NULL,

    CONSTRAINT "commission_rates_pkey" PRIMARY KEY ("id")
);

INSERT INTO "commission_rates" ("role", "rate", "valid_from") VALUES
    ('REP', 0.0500, '2025-01-01'),
    ('LEAD', 0.0250, '2025-01-01');
