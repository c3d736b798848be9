-- One image of a reference for each platform. A UNIQUE constraint cannot be changed, so the tables are made anew
-- (https://sqlite.org/lang_altertable.html#otheralter), and with them those that refer to them: deleting from image as it is
-- would take rows of image_layer along. The children go first, so that nothing refers to what is dropped.
-- ALTER TABLE … RENAME looks through all views. They are made again when the index is opened.
DROP VIEW IF EXISTS content_status;
DROP VIEW IF EXISTS snapshot_status;
DROP VIEW IF EXISTS chain_status;
DROP VIEW IF EXISTS image_status;
DROP VIEW IF EXISTS layer_status;
DROP VIEW IF EXISTS merge_progress;
DROP VIEW IF EXISTS cache_usage;
DROP VIEW IF EXISTS duplicate_content;
DROP VIEW IF EXISTS image_content;
DROP VIEW IF EXISTS file;
DROP VIEW IF EXISTS mount_status;
DROP VIEW IF EXISTS layer_content;
DROP VIEW IF EXISTS content_landed;
DROP VIEW IF EXISTS layer_holder;
DROP VIEW IF EXISTS content_use;
DROP VIEW IF EXISTS image_file;
DROP VIEW IF EXISTS content_file;
DROP VIEW IF EXISTS sealed_use;
DROP VIEW IF EXISTS sealed_content;
DROP VIEW IF EXISTS sealed_status;
UPDATE store SET views = NULL;

CREATE TABLE new_image (
    id INTEGER PRIMARY KEY,
    reference TEXT NOT NULL,
    manifest_digest BLOB NOT NULL CHECK (length(manifest_digest) = 32),
    platform TEXT NOT NULL,             -- as Go's platforms.Normalize writes it, so that one platform has one row
    config BLOB NOT NULL,               -- the image configuration's JSON, byte for byte
    pulled_at INTEGER NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    UNIQUE (reference, platform)
) STRICT;
-- What is common of the names that Normalize changes. A row with another one is of use all the same, until it is removed.
INSERT INTO new_image (id, reference, manifest_digest, platform, config, pulled_at, pinned)
SELECT id, reference, manifest_digest,
    CASE platform
        WHEN 'linux/arm64/v8' THEN 'linux/arm64' WHEN 'linux/aarch64' THEN 'linux/arm64'
        WHEN 'linux/amd64/v1' THEN 'linux/amd64' WHEN 'linux/x86_64' THEN 'linux/amd64'
        WHEN 'linux/arm' THEN 'linux/arm/v7'
        ELSE platform
    END,
    config, pulled_at, pinned
FROM image;

CREATE TABLE new_image_layer (
    image INTEGER NOT NULL REFERENCES new_image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,          -- 0 is the bottom
    layer INTEGER NOT NULL REFERENCES layer (id),
    view INTEGER NOT NULL REFERENCES layer_view (id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
INSERT INTO new_image_layer (image, position, layer, view) SELECT image, position, layer, view FROM image_layer;

CREATE TABLE new_mount (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    target TEXT NOT NULL UNIQUE,
    image INTEGER NOT NULL REFERENCES new_image (id),
    upper TEXT,                         -- the writable directory of a mount with --rw
    mounted_at INTEGER NOT NULL
) STRICT;
INSERT INTO new_mount (id, target, image, upper, mounted_at) SELECT id, target, image, upper, mounted_at FROM mount;
-- Numbers of mounts that are over are not used again.
DELETE FROM sqlite_sequence WHERE name = 'new_mount';
INSERT INTO sqlite_sequence (name, seq) SELECT 'new_mount', seq FROM sqlite_sequence WHERE name = 'mount';

CREATE TABLE new_mount_view (
    mount INTEGER NOT NULL REFERENCES new_mount (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,          -- 0 is the bottom
    view INTEGER NOT NULL REFERENCES layer_view (id),
    PRIMARY KEY (mount, position)
) STRICT, WITHOUT ROWID;
INSERT INTO new_mount_view (mount, position, view) SELECT mount, position, view FROM mount_view;

DROP TABLE mount_view;
DROP TABLE mount;
DROP TABLE image_layer;
DROP TABLE image;
-- Each of these has the REFERENCES of the others follow.
ALTER TABLE new_image RENAME TO image;
ALTER TABLE new_image_layer RENAME TO image_layer;
ALTER TABLE new_mount RENAME TO mount;
ALTER TABLE new_mount_view RENAME TO mount_view;
CREATE INDEX image_layer_by_layer ON image_layer (layer);
