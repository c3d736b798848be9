-- What podman, buildah, skopeo and CRI-O see of the store: an additional image store of theirs (docs/podman.md).

-- The manifest, byte for byte; NULL: the image was pulled by an earlier version.
ALTER TABLE image ADD COLUMN manifest BLOB;

-- The tar-splits below <root>/tar-split: how a layer's tar is put together from its files. One is a matter of the tar alone.
CREATE TABLE tar_split (
    diff_id BLOB PRIMARY KEY CHECK (length(diff_id) = 32),
    tar_size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The layers that are in the image store, by containers/storage's own ids (chains of diff IDs). A row comes before the files, and goes
-- after them: what podman may have something upon is held.
CREATE TABLE podman_layer (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    parent BLOB CHECK (length(parent) = 32),
    layer INTEGER NOT NULL REFERENCES layer (id),
    view INTEGER NOT NULL REFERENCES layer_view (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX podman_layer_by_view ON podman_layer (view);
CREATE INDEX podman_layer_by_layer ON podman_layer (layer);

-- The images that are there. One that has no reference any more stays as long as podman has something upon it.
CREATE TABLE podman_image (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),    -- the configuration's digest
    top BLOB NOT NULL REFERENCES podman_layer (id),
    manifest BLOB NOT NULL,
    config BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX podman_image_by_top ON podman_image (top);
