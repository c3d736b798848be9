import Glibc
public import LaminaFUSE
import LaminaStore

// What directories contain: answered in the callback, and made ahead for a reader that walks through a tree.

extension LayerFilesystem {
    public func readdir(node: UInt64, offset: Int64, thread: FUSEThread, reply: consuming DirectoryReply) {
        let size = reply.size
        var listing = directories.take(
            Int64(bitPattern: node), from: max(0, offset), size: size, isPlus: reply.isPlus)
        do {
            try fill(&listing, from: reader(thread))
        } catch {
            report(error)
            return reply.error(EIO)
        }
        reply.entries(listing.entries)
        directories.sent(listing, size: size)
    }

    public func idle(thread: FUSEThread) -> Bool {
        guard var listing = directories.work() else { return false }
        do {
            try fill(&listing, from: reader(thread), limit: 16)
            directories.put(listing)
        } catch {
            // It stays taken: the request that asks for it gets the error.
        }
        return true
    }

    /// Adds what fits.
    ///
    /// - Parameter limit: at most this many entries now.
    private func fill(_ listing: inout DirectoryListing, from reader: IndexReader, limit: Int = .max) throws {
        guard listing.end == .open else { return }
        listing.entries.entryTime = options.entryTime
        listing.entries.attributeTime = options.attributeTime
        // Positions 0 and 1 are "." and "..", whose attributes the kernel ignores.
        let own = FUSEAttributes(node: UInt64(bitPattern: listing.directory), mode: UInt32(S_IFDIR))
        while listing.position < 2 {
            let name = [UInt8](repeating: UInt8(ascii: "."), count: Int(listing.position) + 1)
            guard name.withUnsafeBytes({ listing.add(name: $0, attributes: own) }) else { return }
        }
        var left = limit
        var end = DirectoryListing.End.last
        try reader.entries(of: listing.directory, from: listing.position - 2) { inode, name in
            guard left > 0 else {
                end = .open
                return false
            }
            left -= 1
            guard listing.add(name: name, attributes: inode.attributes) else {
                end = .full
                return false
            }
            if inode.mode & UInt32(S_IFMT) == UInt32(S_IFDIR) {
                listing.directories.append((inode.id, listing.position))
            }
            return true
        }
        listing.end = end
    }
}

extension DirectoryListing {
    /// Adds the entry at `position`; false when it does not fit.
    fileprivate mutating func add(name: UnsafeRawBufferPointer, attributes: FUSEAttributes) -> Bool {
        guard entries.add(name: name, attributes: attributes, nextOffset: position + 1) else {
            end = .full
            return false
        }
        position += 1
        return true
    }
}
