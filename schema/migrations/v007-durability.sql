-- What is on disk for certain is told by two numbers: each content names the syncfs that its last write waits for, and the
-- store those that were done. A mark on each content wrote every one of them a second time.
DROP INDEX IF EXISTS content_volatile;
ALTER TABLE content RENAME COLUMN durable TO sync;
ALTER TABLE store ADD COLUMN syncs INTEGER NOT NULL DEFAULT 1; -- done: what names this one or an earlier one is on disk
ALTER TABLE store ADD COLUMN landing INTEGER NOT NULL DEFAULT 1; -- the latest that a content names
UPDATE content SET sync = 2 WHERE sync = 0 AND state > 0;
UPDATE store SET landing = 2 WHERE EXISTS (SELECT 1 FROM content WHERE sync = 2);
