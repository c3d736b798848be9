import Glibc
public import LaminaFUSE
import LaminaStore
import Synchronization

// Everything except open and read: answered in the callback from the index, because a hop to another thread would cost as much
// as the whole round trip.

extension LayerFilesystem: FUSEHandler {
    public func lookup(parent: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming EntryReply) {
        counters.lookups.add(1, ordering: .relaxed)
        do {
            if parent == 1, name.elementsEqual(Self.emptyName.utf8) {
                reply.entry(
                    Self.emptyAttributes, entryTime: options.entryTime, attributeTime: options.attributeTime)
            } else if let inode = try reader(thread).lookup(parent: Int64(bitPattern: parent), name: name) {
                reply.entry(
                    inode.attributes, entryTime: options.entryTime, attributeTime: options.attributeTime)
            } else if parent == 1 {
                // Views come and go: the kernel must not remember that a view did not exist.
                reply.error(ENOENT)
            } else {
                reply.negative(entryTime: options.entryTime)
            }
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    public func getattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeReply) {
        do {
            if node == Self.emptyNode {
                reply.attributes(Self.emptyAttributes, time: options.attributeTime)
            } else if let inode = try reader(thread).inode(Int64(bitPattern: node)) {
                reply.attributes(inode.attributes, time: options.attributeTime)
            } else {
                reply.error(ENOENT)
            }
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    public func readlink(node: UInt64, thread: FUSEThread, reply: consuming DataReply) {
        do {
            let target = ReplyBytes()
            guard try reader(thread).target(Int64(bitPattern: node), { target.append($0) }) else {
                return reply.error(EINVAL)
            }
            reply.bytes(target.bytes)
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    public func getxattr(
        node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread, reply: consuming AttributeValueReply
    ) {
        do {
            let value = ReplyBytes()
            guard try reader(thread).xattr(Int64(bitPattern: node), name: name, { value.append($0) }) else {
                return reply.error(ENODATA)
            }
            reply.value(value.bytes)
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    /// overlayfs asks for its own attributes of each file (`metacopy`) and each directory (`opaque`, `redirect`, `origin`) that
    /// is looked up or listed below an overlay. Only two of them are ever in the index, and only for directories: none is taken
    /// from an image (docs/decisions/006-trusted-attributes.md). If a layer has no attribute at all, there is nothing to look
    /// for either.
    public func lacksXattr(node: UInt64, name: UnsafeRawBufferPointer, thread: FUSEThread) -> Bool {
        if name.starts(with: "trusted.overlay.".utf8) || name.starts(with: "user.overlay.".utf8) {
            let own = name.suffix(7)
            if !own.elementsEqual(".opaque".utf8), !own.elementsEqual(".origin".utf8) { return true }
        }
        let inode = Int64(bitPattern: node)
        if let layer = plainLayers.layer(of: inode) { return !layer.hasAttributes }
        // Unknown for a view's own directories. If there is an error, the ordinary request reports it.
        guard let found = try? reader(thread).layer(of: inode) else { return false }
        plainLayers.learn(.init(inodes: found.inodes, hasAttributes: found.hasXattrs))
        return !found.hasXattrs
    }

    public func listxattr(node: UInt64, thread: FUSEThread, reply: consuming AttributeValueReply) {
        do {
            let names = ReplyBytes()
            try reader(thread).xattrNames(Int64(bitPattern: node)) { name in
                // An overlayfs that is mounted with userxattr asks for it by name; if it were listed, it would show through
                // every other overlay.
                guard !name.starts(with: "user.overlay.".utf8) else { return }
                names.append(name, terminated: true)
            }
            reply.value(names.bytes)
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    public func statfs(node: UInt64, thread: FUSEThread, reply: consuming StatisticsReply) {
        var status = statvfs()
        guard statvfs(store.root, &status) == 0 else { return reply.error(errno) }
        reply.statistics(
            FUSEFilesystemStatistics(
                blockSize: UInt32(truncatingIfNeeded: status.f_frsize), blocks: UInt64(status.f_blocks),
                freeBlocks: UInt64(status.f_bfree), availableBlocks: UInt64(status.f_bavail),
                files: UInt64(status.f_files), freeFiles: UInt64(status.f_ffree)))
    }

    /// An empty directory in the mount's root, beside the views: overlayfs wants it below an image of one layer. It is in no
    /// listing, and its number is never a row of the index.
    static let emptyName = "empty"
    private static var emptyNode: UInt64 { UInt64(Int64.max) }
    private static var emptyAttributes: FUSEAttributes {
        FUSEAttributes(node: emptyNode, mode: UInt32(S_IFDIR) | 0o755, linkCount: 2)
    }

    func report(_ error: any Error) { log("cannot answer the kernel: \(error)") }
}

extension Inode {
    var attributes: FUSEAttributes {
        FUSEAttributes(
            node: UInt64(bitPattern: id), mode: mode, linkCount: nlink, userID: uid, groupID: gid,
            size: UInt64(bitPattern: size), device: UInt32(truncatingIfNeeded: device), modifiedSeconds: mtime,
            modifiedNanoseconds: UInt32(truncatingIfNeeded: mtimeNanoseconds))
    }
}

/// Bytes gathered for a reply. An answer consumes its reply, and the closure that an array lends its bytes to cannot capture
/// what is consumed.
private final class ReplyBytes {
    private var memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 256, alignment: 1)
    private var count = 0

    deinit { memory.deallocate() }

    /// Valid as long as this object lives; the reply copies them.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

    func append(_ bytes: UnsafeRawBufferPointer, terminated: Bool = false) {
        let needed = count + bytes.count + (terminated ? 1 : 0)
        if needed > memory.count {
            let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: max(needed, 2 * memory.count), alignment: 1)
            larger.copyMemory(from: self.bytes)
            memory.deallocate()
            memory = larger
        }
        UnsafeMutableRawBufferPointer(rebasing: memory[count...]).copyMemory(from: bytes)
        if terminated { memory[needed - 1] = 0 }
        count = needed
    }
}
