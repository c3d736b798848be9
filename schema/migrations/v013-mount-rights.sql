-- What a mount was asked to allow: without it no set-user-ID program gains rights in it, and no device file opens a device.
ALTER TABLE mount ADD COLUMN suid INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mount ADD COLUMN dev INTEGER NOT NULL DEFAULT 0;
