import Glibc
import LaminaDigest
import LaminaSQLite

extension Store {
    /// The views of an image's layers, bottom first: what overlayfs gets as lower directories, in reverse order.
    ///
    /// A directory that a layer does not list takes mode, owner, times and attributes from the same directory in the layers
    /// below, as in an unpacked image. If these differ from the layer's own 0755 root, the layer's directories are cloned for
    /// this chain, because the kernel knows a directory by one inode number and one parent. Files are never cloned.
    ///
    /// The result is kept: neither layers nor views ever change. The first time, the directories that are not listed are looked
    /// up in the layers below, a layer at a time, so that other code may write in between.
    public func views(of layers: [LayerID]) throws -> [ViewID] {
        if let known = try index.read({ try $0.knownViews(of: layers) }) { return known }
        var chain: LayerChain?
        for layer in layers {
            chain = try write { try $0.chain(layer, onto: chain) }
        }
        return chain?.views.map(\.id) ?? []
    }
}

private struct ViewRow {
    var id: ViewID
    var root: Int64
}

/// Layers above each other, with their views.
private struct LayerChain {
    /// Its row in `layer_chain`, for the topmost layer.
    var id: Int64
    /// Bottom first.
    var views: [ViewRow]
}

extension Connection {
    /// The views of layers above each other, bottom first; nil if they were not looked up yet.
    fileprivate func knownViews(of layers: [LayerID]) throws -> [ViewID]? {
        var below: Int64?
        var views: [ViewID] = []
        for layer in layers {
            let found = try cached("SELECT id, view FROM layer_chain WHERE below IS ? AND layer = ?").bind(1, below)
                .bind(2, layer.row).first { ($0.integer(0), ViewID($0.integer(1))) }
            guard let (link, view) = found else { return nil }
            below = link
            views.append(view)
        }
        return views
    }
}

/// What an unlisted directory takes from the layers below.
private struct Inheritance {
    var inode: Int64
    var path: [UInt8]
    var source: Int64
}

extension Writer {
    /// The view of a layer above a chain of views, the lowest first.
    func view(of layer: LayerID, above views: [ViewID]) throws -> ViewID {
        var chain: LayerChain?
        for view in views {
            let found = try connection.cached("SELECT layer, root FROM layer_view WHERE id = ?").bind(1, view.row)
                .first { (LayerID($0.integer(0)), $0.integer(1)) }
            guard let (layer, root) = found else { throw StoreError(.notFound, "the view \(view) is not in the index") }
            let row = ViewRow(id: view, root: root)
            let link = try connection.cached("SELECT id FROM layer_chain WHERE below IS ? AND layer = ? AND view = ?")
                .bind(1, chain?.id).bind(2, layer.row).bind(3, view.row).first { $0.integer(0) }
            chain = LayerChain(
                id: try link ?? addLink(layer, row, onto: chain?.id), views: (chain?.views ?? []) + [row])
        }
        guard let view = try self.chain(layer, onto: chain).views.last else {
            throw StoreError(.damaged, "\(layer) has no view")
        }
        return view.id
    }

    /// A chain with one more layer at its top.
    fileprivate func chain(_ layer: LayerID, onto chain: LayerChain?) throws -> LayerChain {
        let known = try connection.cached(
            """
            SELECT k.id, v.id, v.root FROM layer_chain k JOIN layer_view v ON v.id = k.view
            WHERE k.below IS ? AND k.layer = ?
            """
        ).bind(1, chain?.id).bind(2, layer.row)
            .first { ($0.integer(0), ViewRow(id: ViewID($0.integer(1)), root: $0.integer(2))) }
        let views = chain?.views ?? []
        if let (id, view) = known { return LayerChain(id: id, views: views + [view]) }
        let view = try view(of: layer, above: views)
        return LayerChain(id: try addLink(layer, view, onto: chain?.id), views: views + [view])
    }

    private func addLink(_ layer: LayerID, _ view: ViewRow, onto below: Int64?) throws -> Int64 {
        // A view that was given from outside may differ from the one that was found for its layer: the later one counts.
        try connection.cached("DELETE FROM layer_chain WHERE below IS ? AND layer = ?").bind(1, below)
            .bind(2, layer.row).run()
        try connection.cached("INSERT INTO layer_chain (below, layer, view) VALUES (?, ?, ?)").bind(1, below)
            .bind(2, layer.row).bind(3, view.id.row).run()
        return connection.lastInsertedRow
    }

    fileprivate func view(of layer: LayerID, above: [ViewRow]) throws -> ViewRow {
        let inherited = try inheritance(of: layer, from: above)
        let fingerprint = try fingerprint(of: inherited)
        if let known = try connection.cached("SELECT id, root FROM layer_view WHERE layer = ? AND inherits = ?")
            .bind(1, layer.row).bind(2, blob: fingerprint)
            .first({ ViewRow(id: ViewID($0.integer(0)), root: $0.integer(1)) })
        {
            return known
        }
        let range = try connection.cached("SELECT root, first_inode, last_inode FROM layer WHERE id = ?")
            .bind(1, layer.row).first { ($0.integer(0), $0.integer(1), $0.integer(2)) }
        guard let (layerRoot, first, last) = range else { throw StoreError(.notFound, "\(layer) is not in the index") }
        var root = layerRoot
        var clones: (Int64, Int64)?
        if !inherited.isEmpty {
            let cloned = try cloneDirectories(from: first, to: last, inherited: inherited)
            root = cloned.root
            clones = (cloned.first, cloned.last)
        }
        try connection.cached(
            "INSERT INTO layer_view (layer, inherits, root, first_inode, last_inode) VALUES (?, ?, ?, ?, ?)"
        ).bind(1, layer.row).bind(2, blob: fingerprint).bind(3, root).bind(4, clones?.0).bind(5, clones?.1).run()
        let view = ViewID(connection.lastInsertedRow)
        try connection.cached("INSERT INTO dirent (parent, name, inode) VALUES (1, ?, ?)")
            .bind(1, blob: Array(view.description.utf8)).bind(2, root).run()
        return ViewRow(id: view, root: root)
    }

    /// The unlisted directories of a layer whose attributes differ from what the layers below give them.
    private func inheritance(of layer: LayerID, from above: [ViewRow]) throws -> [Inheritance] {
        guard !above.isEmpty else { return [] }
        let implicit = try connection.cached(
            """
            SELECT p.inode, p.path FROM layer l JOIN implicit_directory p ON p.inode BETWEEN l.first_inode AND l.last_inode
            WHERE l.id = ? ORDER BY p.path
            """
        ).bind(1, layer.row).map { (inode: $0.integer(0), path: Array($0.blob(1))) }
        let layerRoot =
            try connection.cached("SELECT root FROM layer WHERE id = ?").bind(1, layer.row).first { $0.integer(0) } ?? 0
        var own = KnownPlaces(root: layerRoot)
        var below = above.map { KnownPlaces(root: $0.root) }
        var result: [Inheritance] = []
        for directory in implicit {
            guard try !isHidden(directory.path[...], &own) else { continue }
            for number in below.indices.reversed() {
                switch try resolve(directory.path[...], &below[number]) {
                case .directory(let source):
                    if try !looksAlike(directory.inode, source, ignoringTime: directory.path.isEmpty) {
                        result.append(Inheritance(inode: directory.inode, path: directory.path, source: source))
                    }
                case .blocked: break
                case .absent: continue
                }
                break
            }
        }
        return result
    }

    private enum Resolution {
        case directory(Int64)
        /// Something other than a directory, or an opaque directory, hides what is below.
        case blocked
        case absent
    }

    /// What was found for paths of one layer. Most directories share their parents, and if a parent is not there, its children
    /// are not either.
    private struct KnownPlaces {
        var root: Int64
        var places: [ArraySlice<UInt8>: Resolution] = [:]
        /// Whether a directory, or one above it, is opaque in this layer.
        var hides: [ArraySlice<UInt8>: Bool] = [:]
    }

    /// Follows a path from a view's root as overlayfs would within one layer.
    private func resolve(_ path: ArraySlice<UInt8>, _ known: inout KnownPlaces) throws -> Resolution {
        guard let (parent, name) = Self.split(path) else { return .directory(known.root) }
        let place: Resolution
        if let found = known.places[parent] {
            place = found
        } else {
            place = try resolve(parent, &known)
            known.places[parent] = place
        }
        guard case .directory(let directory) = place else { return place }
        let found = try connection.cached(
            "SELECT i.id, i.mode FROM dirent d JOIN inode i ON i.id = d.inode WHERE d.parent = ? AND d.name = ?"
        ).bind(1, directory).bind(2, blob: name).first { ($0.integer(0), $0.integer(1)) }
        guard let (inode, mode) = found else { return try isOpaque(directory) ? .blocked : .absent }
        return mode & Int64(S_IFMT) == Int64(S_IFDIR) ? .directory(inode) : .blocked
    }

    /// Whether an ancestor of `path` is opaque in its own layer, so that no layer below shows through. A directory that is
    /// itself opaque hides what the layers below have in it, but keeps its own attributes: containerd's unpack removes only
    /// children.
    private func isHidden(_ path: ArraySlice<UInt8>, _ own: inout KnownPlaces) throws -> Bool {
        guard let (parent, _) = Self.split(path) else { return false }
        if let known = own.hides[parent] { return known }
        var hides = try isHidden(parent, &own)
        if !hides, case .directory(let inode) = try resolve(parent, &own) { hides = try isOpaque(inode) }
        own.hides[parent] = hides
        return hides
    }

    /// The directory of a path, and its name there; nil for the root.
    private static func split(_ path: ArraySlice<UInt8>) -> (parent: ArraySlice<UInt8>, name: ArraySlice<UInt8>)? {
        guard !path.isEmpty else { return nil }
        guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return (path[path.endIndex...], path) }
        return (path[..<slash], path[(slash + 1)...])
    }

    private func isOpaque(_ inode: Int64) throws -> Bool {
        try connection.cached("SELECT 1 FROM xattr WHERE inode = ? AND name = ?")
            .bind(1, inode).bind(2, blob: Array("trusted.overlay.opaque".utf8)).first { _ in true } ?? false
    }

    /// Whether two directories have the same attributes. The root's time is left out, because it differs in every layer.
    private func looksAlike(_ a: Int64, _ b: Int64, ignoringTime: Bool) throws -> Bool {
        let columns = ignoringTime ? "mode, uid, gid" : "mode, uid, gid, mtime, mtime_ns"
        let same = try connection.cached(
            """
            SELECT (SELECT count(*) FROM (SELECT \(columns) FROM inode WHERE id = ?1
                                          INTERSECT SELECT \(columns) FROM inode WHERE id = ?2))
            """
        ).bind(1, a).bind(2, b).first { $0.integer(0) == 1 }
        return try same == true && xattrs(a) == xattrs(b)
    }

    /// The attributes that steer overlayfs: no other attribute of these prefixes is ever in the index.
    private static let steeringNames = [
        "trusted.overlay.opaque", "user.overlay.opaque", "trusted.overlay.origin", "user.overlay.origin",
    ].map { "CAST('\($0)' AS BLOB)" }.joined(separator: ", ")

    /// The attributes that an image gave a directory; those that steer overlayfs belong to the layer.
    private func xattrs(_ inode: Int64) throws -> [[UInt8]] {
        try connection.cached(
            """
            SELECT name, value FROM xattr WHERE inode = ?
            AND name NOT IN (\(Self.steeringNames)) ORDER BY name
            """
        ).bind(1, inode).map { Array($0.blob(0)) + [0] + Array($0.blob(1)) }
    }

    /// SHA-256 of everything inherited; empty bytes if nothing is.
    private func fingerprint(of inherited: [Inheritance]) throws -> [UInt8] {
        guard !inherited.isEmpty else { return [] }
        var hash = SHA256()
        // Each part follows its length: no two lists of attributes may have the same hash.
        func update(_ bytes: [UInt8]) {
            withUnsafeBytes(of: Int64(bytes.count).littleEndian) { hash.update($0) }
            hash.update(bytes)
        }
        for directory in inherited {
            update(directory.path)
            let attributes = try connection.cached("SELECT mode, uid, gid, mtime, mtime_ns FROM inode WHERE id = ?")
                .bind(1, directory.source).first { row in (0..<5).map { row.integer($0) } }
            for value in attributes ?? [] { withUnsafeBytes(of: value.littleEndian) { hash.update($0) } }
            let attached = try xattrs(directory.source)
            withUnsafeBytes(of: Int64(attached.count).littleEndian) { hash.update($0) }
            for xattr in attached { update(xattr) }
        }
        return hash.digest().withUnsafeBytes { Array($0) }
    }

    private func cloneDirectories(
        from first: Int64, to last: Int64, inherited: [Inheritance]
    ) throws -> (root: Int64, first: Int64, last: Int64) {
        try connection.execute("CREATE TEMP TABLE IF NOT EXISTS clone (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)")
        try connection.execute("DELETE FROM clone")
        try connection.cached(
            "INSERT INTO clone SELECT id, row_number() OVER (ORDER BY id) FROM inode WHERE id BETWEEN ? AND ? AND mode & 61440 = 16384"
        ).bind(1, first).bind(2, last).run()
        let count = connection.changes
        let start = try takeInodes(count)
        try connection.cached("UPDATE clone SET new = new + ? - 1").bind(1, start).run()
        try connection.cached(
            """
            INSERT INTO inode (id, mode, uid, gid, size, mtime, mtime_ns, device, nlink, content, target)
            SELECT c.new, i.mode, i.uid, i.gid, i.size, i.mtime, i.mtime_ns, i.device, i.nlink, i.content, i.target
            FROM clone c CROSS JOIN inode i ON i.id = c.old
            """
        ).run()
        try connection.cached(
            """
            INSERT INTO dirent SELECT p.new, d.name, coalesce(n.new, d.inode)
            FROM clone p CROSS JOIN dirent d ON d.parent = p.old LEFT JOIN clone n ON n.old = d.inode
            """
        ).run()
        try connection.cached(
            "INSERT INTO xattr SELECT c.new, x.name, x.value FROM clone c CROSS JOIN xattr x ON x.inode = c.old"
        ).run()
        for directory in inherited {
            let clone = try newNumber(of: directory.inode)
            try connection.cached(
                """
                UPDATE inode SET (mode, uid, gid, mtime, mtime_ns) =
                    (SELECT s.mode, s.uid, s.gid, s.mtime, s.mtime_ns FROM inode s WHERE s.id = ?2) WHERE id = ?1
                """
            ).bind(1, clone).bind(2, directory.source).run()
            try connection.cached(
                """
                INSERT OR REPLACE INTO xattr SELECT ?1, name, value FROM xattr WHERE inode = ?2
                AND name NOT IN (\(Self.steeringNames))
                """
            ).bind(1, clone).bind(2, directory.source).run()
        }
        return (root: try newNumber(of: first), first: start, last: start + Int64(count) - 1)
    }

    private func newNumber(of old: Int64) throws -> Int64 {
        let new = try connection.cached("SELECT new FROM clone WHERE old = ?").bind(1, old).first { $0.integer(0) }
        guard let new else { throw StoreError(.damaged, "directory \(old) is not among its layer's inodes") }
        return new
    }
}
