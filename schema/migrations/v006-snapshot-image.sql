-- The image that a lazy layer was first asked for as part of: whose files its containers open, and what its next version begins with.
ALTER TABLE snapshot ADD COLUMN reference TEXT;
ALTER TABLE snapshot ADD COLUMN manifest_digest BLOB CHECK (length(manifest_digest) = 32);
