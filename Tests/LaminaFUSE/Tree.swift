import Glibc
import LaminaFUSE
import LaminaSystem

/// Builds the nodes of a `MemoryFilesystem`; node 1, the root, is there from the start.
struct Tree {
    private var nodes: [MemoryFilesystem.Node] = [
        MemoryFilesystem.Node(
            attributes: FUSEAttributes(node: 1, mode: S_IFDIR | 0o755, linkCount: 2), content: .directory, parent: 1)
    ]

    @discardableResult
    mutating func add(
        _ name: String, in parent: UInt64 = 1, mode: UInt32 = 0o644, _ content: MemoryFilesystem.Content,
        xattrs: [(String, [UInt8])] = []
    ) -> UInt64 {
        add(Array(name.utf8), in: parent, mode: mode, content, xattrs: xattrs)
    }

    @discardableResult
    mutating func add(
        _ name: [UInt8], in parent: UInt64 = 1, mode: UInt32 = 0o644, _ content: MemoryFilesystem.Content,
        xattrs: [(String, [UInt8])] = []
    ) -> UInt64 {
        let node = UInt64(nodes.count) + 1
        let (type, size): (UInt32, UInt64) =
            switch content {
            case .directory: (S_IFDIR, 0)
            case .symlink(let target): (S_IFLNK, UInt64(target.count))
            case .bytes(let bytes): (S_IFREG, UInt64(bytes.count))
            case .file(let file), .passthrough(let file): (S_IFREG, UInt64((try? file.size()) ?? 0))
            case .parkedRead(let size): (S_IFREG, UInt64(size))
            case .parkedOpen, .droppedOpen, .stuckLookup: (S_IFREG, 10)
            }
        var attributes = FUSEAttributes(
            node: node, mode: type | mode, userID: 12, groupID: 34, size: size, modifiedSeconds: 1_700_000_000,
            modifiedNanoseconds: 123_456_789)
        if type == S_IFDIR { attributes.linkCount = 2 }
        nodes.append(
            MemoryFilesystem.Node(
                attributes: attributes, content: content, xattrs: xattrs.map { (Array($0.0.utf8), $0.1) },
                parent: parent))
        nodes[Int(parent) - 1].entries.append((name, node))
        return node
    }

    func sorted() -> [MemoryFilesystem.Node] {
        nodes.map { node in
            var node = node
            node.entries.sort { $0.name.lexicographicallyPrecedes($1.name) }
            return node
        }
    }
}
