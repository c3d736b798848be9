import Glibc
public import LaminaDigest
import LaminaSQLite
public import LaminaSystem
import Synchronization

// Durability without an fsync per file. What has landed is recorded at once: within one boot the page cache survives every
// crash of the process, so the record is true. Once in a while one syncfs makes everything durable, and one number says so:
// each content names the syncfs that its last write waits for. After a restart of the machine, contents that name a syncfs that
// was not done are hashed again before they are served.

extension Store {
    /// Whether something has landed that is not known to be on disk.
    public func hasVolatileContent() throws -> Bool {
        try writer.withLock { try $0.hasVolatileContent() }
    }

    /// The last syncfs that is done: rows that name it or an earlier one are on disk.
    public func durableSync() throws -> Int64 {
        try index.read { try $0.integer("SELECT syncs FROM store") } ?? 0
    }

    /// Makes what has landed durable: one syncfs, then one number, which is also on disk when this returns. If nothing has
    /// landed, it does nothing.
    ///
    /// An error of syncfs means that some write was lost, and it is not known which: everything that was not durable is hashed
    /// again, from the disk, and what is wrong becomes absent. The kernel tells of a lost write once. So nothing becomes durable until all of
    /// it has been hashed, however often that fails.
    ///
    /// - Returns: whether something became durable.
    @discardableResult
    public func makeDurable() throws -> Bool {
        let began = try writer.withLock { writer -> Int64? in
            guard try writer.hasVolatileContent() else { return nil }
            // This syncfs may miss what lands from now on, which waits for the next one.
            defer { writer.nextSync += 1 }
            return writer.nextSync
        }
        guard let began else { return false }
        try recheckAfterLoss()
        do {
            try files.synchronize()
        } catch {
            writer.withLock { $0.hasLostWrites = true }
            try recheckAfterLoss()
            throw StoreError(
                .system(error.code), "a write to \(root)/content was lost; what was not durable was checked again",
                cause: error)
        }
        try writeDurably { writer in
            try writer.connection.cached("UPDATE store SET syncs = ?1 WHERE syncs < ?1").bind(1, began).run()
        }
        return true
    }

    /// Hashes what was not durable when a syncfs failed, if one has.
    private func recheckAfterLoss() throws {
        let suspects = try writer.withLock { try $0.hasLostWrites ? Self.volatileContents($0.connection) : nil }
        guard let suspects else { return }
        for content in suspects { _ = try recheckOrTakeBack(content) }
        writer.withLock { $0.hasLostWrites = false }
    }

    /// Hashes a content that may have lost writes. Bytes that the disk does not give were not promised to any caller: they are taken back, so
    /// that one file does not stand in the way of all others.
    ///
    /// - Returns: whether all of it is right.
    private func recheckOrTakeBack(_ content: ContentRecord) throws -> Bool {
        do {
            return try recheck(content)
        } catch let error as SystemError where error.code == EIO {
            try takeBack(index.landedRanges(of: content).map(\.range), of: content.id)
            return false
        }
    }

    /// Hashes what was not durable at the end of another boot, and records the new boot.
    func recheckAfterBoot(_ boot: String) throws -> OpenReport {
        var report = OpenReport()
        let known = try writer.withLock { try $0.connection.prepare("SELECT boot FROM store").first { $0.text(0) } }
        guard known != boot else { return report }
        let volatile = try writer.withLock { try $0.hasVolatileContent() ? Self.volatileContents($0.connection) : [] }
        for content in volatile {
            report.rechecked += 1
            if try !recheckOrTakeBack(content) { report.lost += 1 }
        }
        try write { writer in
            // Before anything lands: the next syncfs would record that these states are on disk, and they were not.
            try writer.connection.cached("DELETE FROM stream_resume WHERE sync > (SELECT syncs FROM store)").run()
            try writer.connection.cached("UPDATE store SET boot = ?").bind(1, text: boot).run()
        }
        return report
    }

    private static func volatileContents(_ database: Connection) throws -> [ContentRecord] {
        // Without an index: this is read only after a crash of the machine, or an error of its disk.
        try database.cached(
            """
            SELECT \(Index.contentColumns) FROM content c
            WHERE c.state > 0 AND c.sync NOT BETWEEN 1 AND (SELECT syncs FROM store)
            """
        ).map { try Index.content($0) }
    }

    /// Ends idle read transactions and cuts the write-ahead log when it has grown.
    ///
    /// Waits for no reader: if one reads from the log now, the next call cuts it.
    ///
    /// - Parameters:
    ///   - readers: every reader that keeps a transaction.
    ///   - settling: cuts the log even if it is short, as a process that ends should do.
    public func tidy(_ readers: [IndexReader], settling: Bool = false) throws {
        let log = try? File(index.path + "-wal", O_RDONLY).size()
        guard let log, log > (settling ? 0 : Self.longLog) else {
            for reader in readers { reader.endStaleRead() }
            return
        }
        try writer.withLock { writer in
            try writer.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            // An open transaction holds the log even if nothing was committed since. Transactions that begin now, with all of
            // the log in the database, do not.
            index.version.add(1, ordering: .releasing)
            for reader in readers { reader.endStaleRead() }
            writer.connection.setBusyTimeout(milliseconds: 0)
            defer { writer.connection.setBusyTimeout(milliseconds: Connection.busyTimeout) }
            try writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        }
    }

    /// From which size in bytes the log is worth cutting: a little more than SQLite lets it grow by itself.
    private static var longLog: Int64 { 16 << 20 }
}

extension File {
    /// SHA-256 of a range as it is on disk: pages that are clean are dropped from the cache first. nil: the file ends in it.
    ///
    /// - Parameter shouldStop: asked every MiB; true ends it with EINTR.
    public func digest(of range: Range<Int64>, shouldStop: () -> Bool = { false }) throws -> Digest? {
        posix_fadvise(descriptor, off_t(range.lowerBound), off_t(range.count), POSIX_FADV_DONTNEED)
        var hash = SHA256()
        var offset = range.lowerBound
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        while offset < range.upperBound {
            if shouldStop() { throw SystemError(code: EINTR, operation: "read", subject: path) }
            let wanted = min(Int64(buffer.count), range.upperBound - offset)
            let count = try read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(wanted)]), at: offset)
            guard count > 0 else { return nil }
            hash.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            offset += Int64(count)
        }
        return hash.digest()
    }
}
