import LaminaSQLite

extension Store {
    /// Removes an image's name from the store, for all its platforms. The layers that nothing else holds stay until
    /// `markGarbage`.
    ///
    /// Records of mounts that do not exist any more are deleted with it: otherwise a server that starts would mount them again.
    ///
    /// - Throws: `StoreError.notFound`; `.conflict` if it is mounted.
    public func removeImage(_ reference: String, mountedAt isMounted: (String) throws -> Bool) throws {
        try reserve.lending {
            try writeDurably { writer in
                let database = writer.connection
                let images = try database.cached("SELECT id FROM image WHERE reference = ?").bind(1, text: reference)
                    .map { $0.integer(0) }
                guard !images.isEmpty else {
                    throw StoreError(
                        .notFound, "the store \(root) has no image \(reference); 'lamina ls' shows those it has")
                }
                let targets = try images.flatMap {
                    try database.cached("SELECT target FROM mount WHERE image = ? ORDER BY id").bind(1, $0)
                        .map { $0.text(0) }
                }
                if let target = try targets.first(where: isMounted) {
                    throw StoreError(
                        .conflict, "\(reference) is mounted at \(target): 'lamina umount \(target)' first")
                }
                for image in images {
                    try database.cached("DELETE FROM mount WHERE image = ?").bind(1, image).run()
                    try database.cached("DELETE FROM image WHERE id = ?").bind(1, image).run()
                }
            }
        }
    }

    /// Sets whether an image's files stay, however full the store is.
    ///
    /// - Parameter image: one of those that the reference names; by default all of them.
    /// - Throws: `StoreError.notFound`.
    public func setPinned(_ isPinned: Bool, _ reference: String, image: ImageID? = nil) throws {
        try write { writer in
            try writer.connection.cached("UPDATE image SET pinned = ?1 WHERE reference = ?2 AND ifnull(id = ?3, 1)")
                .bind(1, isPinned ? 1 : 0).bind(2, text: reference).bind(3, image?.row).run()
            guard writer.connection.changes > 0 else {
                throw StoreError(
                    .notFound, "the store \(root) has no image \(reference); 'lamina ls' shows those it has")
            }
        }
    }
}
