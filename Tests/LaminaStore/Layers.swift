import Glibc
import LaminaDigest
import LaminaStore
import LaminaTestSupport

/// The bytes of a file in a test layer, in the chunks of its TOC.
struct FileBytes {
    var chunks: [[UInt8]]
    /// The digest that the TOC claims, if it is not the true one.
    var claimed: Digest?

    init(_ bytes: [UInt8], claimed: Digest? = nil) { self.init(chunks: [bytes], claimed: claimed) }
    init(chunks: [[UInt8]], claimed: Digest? = nil) {
        self.chunks = chunks
        self.claimed = claimed
    }

    var bytes: [UInt8] { Array(chunks.joined()) }
    var digest: Digest { claimed ?? SHA256.hash(bytes) }
}

/// One path of a test layer. Parents come before what they hold; the empty path is the root.
struct Entry {
    enum Kind {
        case directory
        /// A directory that the layer does not list.
        case implicit
        case file(FileBytes)
        case symlink(String)
        case whiteout
        case fifo
        /// One more name of the file at this path.
        case link(String)
    }

    var path: String
    var kind: Kind
    var permissions: UInt32
    var uid: UInt32
    var gid: UInt32
    var mtime: Int64
    var xattrs: [(String, String)]

    init(
        _ path: String, _ kind: Kind, permissions: UInt32? = nil, uid: UInt32 = 0, gid: UInt32 = 0,
        mtime: Int64 = 1_700_000_000, xattrs: [(String, String)] = []
    ) {
        self.path = path
        self.kind = kind
        self.uid = uid
        self.gid = gid
        self.xattrs = xattrs
        switch kind {
        case .implicit:
            self.permissions = permissions ?? 0o755
            self.mtime = 0
        case .directory:
            self.permissions = permissions ?? 0o755
            self.mtime = mtime
        default:
            self.permissions = permissions ?? 0o644
            self.mtime = mtime
        }
    }

    static let opaque = ("trusted.overlay.opaque", "y")

    fileprivate var type: UInt32 {
        switch kind {
        case .directory, .implicit: S_IFDIR
        case .file, .link: S_IFREG
        case .symlink: S_IFLNK
        case .whiteout: S_IFCHR
        case .fifo: S_IFIFO
        }
    }
}

extension Store {
    /// Imports a layer of these paths; in its blob each chunk is a separate member, half as long as the chunk.
    @discardableResult
    func importLayer(
        _ name: String, _ given: [Entry], location: String = "oci:/images", prioritizedEnd: Int64? = nil
    ) throws -> LayerID {
        let entries = given.first?.path == "" ? given : [Entry("", .implicit)] + given
        var links: [String: UInt32] = [:]
        for case .link(let target) in entries.map(\.kind) { links[target, default: 1] += 1 }
        let count = entries.count { if case .link = $0.kind { false } else { true } }
        let record = LayerRecord(
            digest: digest(name), diffID: digest(name + " tar"), tocDigest: digest(name + " toc"), format: 1,
            size: 1 << 20, prioritizedEnd: prioritizedEnd, location: location)
        return try importLayer(record, inodeCount: count) { importer in
            var inodes: [String: Int64] = [:]
            var blobOffset: Int64 = 0
            for entry in entries {
                let inode: Int64
                if case .link(let target) = entry.kind {
                    inode = inodes[target] ?? 0
                } else {
                    let slash = entry.path.lastIndex(of: "/")
                    let directory = entry.path == "" ? nil : inodes[slash.map { String(entry.path[..<$0]) } ?? ""]
                    inode = try importer.add(entry, in: directory, nlink: links[entry.path], blobOffset: &blobOffset)
                }
                inodes[entry.path] = inode
                guard entry.path != "" else { continue }
                let slash = entry.path.lastIndex(of: "/")
                let parent = slash.map { String(entry.path[..<$0]) } ?? ""
                let name = slash.map { entry.path[entry.path.index(after: $0)...] } ?? entry.path[...]
                try Array(name.utf8).withUnsafeBytes {
                    try importer.addEntry(parent: inodes[parent] ?? 0, name: $0, inode: inode)
                }
            }
        }
    }
}

extension LayerImporter {
    func add(_ bytes: FileBytes, blobOffset: inout Int64) throws -> ContentID? {
        guard !bytes.bytes.isEmpty else { return nil }
        var offset: Int64 = 0
        var chunks: [ImportedChunk] = []
        for chunk in bytes.chunks {
            let size = Int64(chunk.count)
            chunks.append(
                ImportedChunk(
                    offset: offset, size: size, digest: SHA256.hash(chunk), blobOffset: blobOffset,
                    blobSize: size / 2 + 1, innerOffset: 0))
            blobOffset += size / 2 + 1
            offset += size
        }
        return try addContent(digest: bytes.digest, size: offset, chunks: chunks)
    }

    fileprivate func add(
        _ entry: Entry, in directory: Int64?, nlink: UInt32?, blobOffset: inout Int64
    ) throws -> Int64 {
        var content: ContentID?
        var size: Int64 = 0
        var target: [UInt8]?
        switch entry.kind {
        case .file(let bytes):
            content = try add(bytes, blobOffset: &blobOffset)
            size = Int64(bytes.bytes.count)
        case .symlink(let path):
            target = Array(path.utf8)
            size = Int64(path.utf8.count)
        default: break
        }
        let inode = Inode(
            id: 0, mode: entry.type | entry.permissions, uid: entry.uid, gid: entry.gid, size: size, mtime: entry.mtime,
            mtimeNanoseconds: 0, device: 0, nlink: nlink ?? (entry.type == S_IFDIR ? 2 : 1), content: content)
        let id: Int64
        if let target {
            id = try target.withUnsafeBytes { try addInode(inode, in: directory, target: $0) }
        } else {
            id = try addInode(inode, in: directory, target: nil)
        }
        for (name, value) in entry.xattrs {
            try Array(name.utf8).withUnsafeBytes { name in
                try Array(value.utf8).withUnsafeBytes { try addXattr(inode: id, name: name, value: $0) }
            }
        }
        if case .implicit = entry.kind { try markImplicit(inode: id, path: Array(entry.path.utf8)) }
        return id
    }
}

extension Index {
    /// The content with these bytes; the first in the index if there are several.
    func content(_ bytes: FileBytes, in store: Scratch) throws -> ContentRecord {
        let sql = "SELECT id FROM content WHERE digest = x'\(bytes.digest.hex)' ORDER BY id"
        guard let row = try store.integer(sql), let content = try content(ContentID(row)) else {
            throw StoreError(.notFound, "content \(bytes.digest)")
        }
        return content
    }
}

extension IndexReader {
    func lookup(_ parent: Int64, _ name: String) throws -> Inode? {
        try Array(name.utf8).withUnsafeBytes { try lookup(parent: parent, name: $0) }
    }

    /// The inode at a path below an inode.
    func walk(_ root: Int64, _ path: String) throws -> Inode? {
        var current = try inode(root)
        for component in path.split(separator: "/") {
            guard let parent = current else { return nil }
            current = try lookup(parent.id, String(component))
        }
        return current
    }

    /// The inode at a path of a view.
    func walk(_ view: ViewID, _ path: String) throws -> Inode? { try walk(1, "\(view)/\(path)") }

    func names(of directory: Int64) throws -> [String] {
        var names: [String] = []
        try entries(of: directory, from: 0) { _, name in
            names.append(String(decoding: name, as: UTF8.self))
            return true
        }
        return names
    }

    func xattrs(of inode: Int64) throws -> [String: String] {
        var names: [String] = []
        try xattrNames(inode) { names.append(String(decoding: $0, as: UTF8.self)) }
        var values: [String: String] = [:]
        for name in names {
            _ = try Array(name.utf8).withUnsafeBytes {
                try xattr(inode, name: $0) { values[name] = String(decoding: $0, as: UTF8.self) }
            }
        }
        return values
    }
}

extension Store {
    /// The same of the layer with this digest; nil where there is none.
    func commitLayer(
        _ blob: Digest, as name: SnapshotKey, parent: SnapshotKey?, labels: [String: String],
        image: SnapshotImage? = nil
    ) throws -> LayerID? {
        guard let layer = try layer(blob) else { return nil }
        return try commitLayer(layer, as: name, parent: parent, labels: labels, image: image)
    }
}
