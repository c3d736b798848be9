-- Making space: what holds a layer, which files are to be taken away, what was used when, and in which order files were opened.

-- The highest numbers of layers and contents that were deleted: numbers are never used again, as merges that are under way
-- and caches in memory know their layers and contents by them.
ALTER TABLE store ADD COLUMN last_layer INTEGER NOT NULL DEFAULT 0;
ALTER TABLE store ADD COLUMN last_content INTEGER NOT NULL DEFAULT 0;

-- When a content was opened last, or landed, in milliseconds since 1970; and how many times it was opened.
ALTER TABLE content ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE content ADD COLUMN opens INTEGER NOT NULL DEFAULT 0;

-- The views that a mount was made of. Its image may have others since, if its reference was pulled again.
CREATE TABLE mount_view (
    mount INTEGER NOT NULL REFERENCES mount (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,          -- 0 is the bottom
    view INTEGER NOT NULL REFERENCES layer_view (id),
    PRIMARY KEY (mount, position)
) STRICT, WITHOUT ROWID;
INSERT INTO mount_view SELECT mt.id, il.position, il.view FROM mount AS mt JOIN image_layer AS il ON il.image = mt.image;

-- Names of backing files that the index has no content for any more, until they are unlinked.
CREATE TABLE garbage (
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    claim BLOB NOT NULL,
    PRIMARY KEY (digest, claim)
) STRICT, WITHOUT ROWID;

-- Which files of an image were opened first. By names, so that it outlives the image and serves its next version.
CREATE TABLE opened_image (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reference TEXT NOT NULL,
    repository TEXT NOT NULL,           -- the reference without tag and digest
    manifest_digest BLOB NOT NULL CHECK (length(manifest_digest) = 32),
    UNIQUE (reference, manifest_digest)
) STRICT;
CREATE INDEX opened_image_by_repository ON opened_image (repository);

CREATE TABLE opened (
    image INTEGER NOT NULL REFERENCES opened_image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,          -- in the order of the first opens
    path BLOB NOT NULL,                 -- within the layer, without a leading slash
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX opened_by_path ON opened (image, path);
