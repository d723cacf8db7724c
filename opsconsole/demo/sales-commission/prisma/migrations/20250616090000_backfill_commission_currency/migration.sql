-- Commissions earned before teams had a currency get the currency of their team.
UPDATE "commissions" c
   SET "currency" = coalesce(t."currency", 'EUR')
  FROM "targets" g
  JOIN "users" u ON u."id" = g."user_id"
  LEFT JOIN "teams" t ON t."id" = u."team_id"
 WHERE g."id" = c."target_id" AND c."currency" IS NULL;
