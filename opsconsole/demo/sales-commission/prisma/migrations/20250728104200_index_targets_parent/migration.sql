-- Alone in its file: CONCURRENTLY cannot run inside a transaction.
CREATE INDEX CONCURRENTLY "targets_parent_target_id_idx" ON "targets"("parent_target_id");
