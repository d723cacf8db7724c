CREATE UNIQUE INDEX "payouts_user_id_month_key" ON "payouts"("user_id", "month");
