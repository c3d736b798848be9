import Glibc
public import LaminaFUSE
import LaminaMerge
import LaminaStore
import LaminaSystem
import Synchronization

// The four ways to serve an open:
//   merged                            passthrough: the kernel reads the backing file
//   not merged, small                 waits for the merge of this file, then passthrough
//   not merged, larger                at once, cached mode; the merge goes on behind it
//   merged since, cached opens left   cached mode, from the backing file

extension LayerFilesystem {
    public func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply) {
        let request = OpenTable.Request(unique: reply.unique, isResent: reply.isResent)
        do {
            guard let inode = try reader(thread).inode(Int64(bitPattern: node)) else { return reply.error(ENOENT) }
            guard inode.mode & UInt32(S_IFMT) == UInt32(S_IFREG) else { return reply.error(EINVAL) }
            guard let content = inode.content else {
                return answer(OpenTable.Open(mode: .cached, handle: 0), node, reply)
            }
            store.uses.note(inode.id, content)
            let isMerged = try isMerged(content, reader(thread))
            let mayWait = !isMerged && inode.size <= options.lazyThreshold
            let open = try count(node, content, request, isMerged: isMerged, mayWait: mayWait)
            if let open {
                if !isMerged { engine.background(content) }
                return answer(open, node, reply)
            }
            counters.waited.add(1, ordering: .relaxed)
            wait(for: content, node, request, reply)
        } catch {
            report(error)
            reply.error(Self.errorNumber(of: error))
        }
    }

    /// Most opens.
    public func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool {
        let request = OpenTable.Request(unique: reply.unique, isResent: reply.isResent)
        // Where no more opens can be recorded, the other way says so.
        guard let again = try? opens.again(node, request) else { return false }
        if !reply.passthrough(again.backing, handle: again.handle) { opens.release(node, again.handle) }
        // Somebody waits for the answer, and nobody for these.
        counters.passthrough.add(1, ordering: .relaxed)
        store.uses.note(Int64(bitPattern: node), again.content)
        return true
    }

    public func release(node: UInt64, handle: UInt64, thread: FUSEThread) { opens.release(node, handle) }

    /// Parks an open until its file is merged, or cannot be.
    private func wait(
        for content: ContentID, _ node: UInt64, _ request: OpenTable.Request, _ reply: consuming OpenReply
    ) {
        let place = TicketPlace()
        let parked = reply.park { [engine] in
            if let ticket = place.ticket.withLock({ $0 }) { _ = engine.leave(ticket) }
        }
        let ticket = engine.whole(content) { [self] result in
            if isLeft(parked, result) { return }
            guard let reply = parked.take() else { return }
            switch result {
            case .success:
                do {
                    let open = try count(node, content, request, isMerged: true, mayWait: false)
                    guard let open else { return reply.error(EIO) }
                    answer(open, node, reply)
                } catch {
                    report(error)
                    reply.error(Self.errorNumber(of: error))
                }
            case .failure(let error):
                log("a file cannot be opened: \(error)")
                reply.error(Self.errorNumber(of: error))
            }
        }
        place.ticket.withLock { $0 = ticket }
    }

    /// Counts an open, and says how it is served; nil: it has to wait for the merge first.
    private func count(
        _ node: UInt64, _ content: ContentID, _ request: OpenTable.Request, isMerged: Bool, mayWait: Bool
    ) throws -> OpenTable.Open? {
        var isDamaged = false
        func decide() throws -> OpenTable.Open? {
            try opens.open(node, content, request) { kept in
                if isMerged { return try passthroughMode(content, kept, isDamaged: &isDamaged) ?? .cached }
                return mayWait ? nil : .cached
            }
        }
        // Other inodes with these bytes may have kept the damaged file.
        defer { if isDamaged { opens.releaseIdle() } }
        do {
            return try decide()
        } catch let error as SystemError where error.code == EMFILE || error.code == ENFILE {
            opens.releaseIdle()
            return try decide()
        }
    }

    private func answer(_ open: OpenTable.Open, _ node: UInt64, _ reply: consuming OpenReply) {
        let isTaken: Bool
        switch open.mode {
        case .cached:
            counters.cached.add(1, ordering: .relaxed)
            isTaken = reply.cached(handle: open.handle)
        case .passthrough(let backing):
            counters.passthrough.add(1, ordering: .relaxed)
            isTaken = reply.passthrough(backing, handle: open.handle)
        }
        // Nobody waits for the answer any more, so no release will come.
        if !isTaken { opens.release(node, open.handle) }
    }

    /// Whether a content is whole. The engine may know of it before the index does.
    func isMerged(_ content: ContentID, _ reader: IndexReader) throws -> Bool {
        switch engine.knowledge(of: content) {
        case .merged: return true
        case .merging: return false
        case .none:
            guard let record = try reader.content(content) else { return false }
            return record.state == .merged && record.proof != .disproven
        }
    }

    /// Hands a merged file to the kernel; nil when it has to be served in cached mode.
    private func passthroughMode(
        _ content: ContentID, _ kept: BackingID?, isDamaged: inout Bool
    ) throws -> OpenTable.Mode? {
        if let kept { return .passthrough(kept) }
        guard passthroughRefusal == nil else { return nil }
        guard let record = try spareReader.content(content) else { return nil }
        guard let file = try backingFile(record.name) else {
            // Evicted a moment ago, or gone: the reads of a cached open ask for it again.
            if record.state == .merged { isDamaged = try takeBackDamage(of: record) }
            return nil
        }
        // The last line of defence: a mapping of a hole reads zeros that nobody verified, but for those that a layer lists.
        guard try file.size() == record.size,
            try file.firstHole() == record.size || file.holeBytes() <= store.index.holes(of: content)
        else {
            FUSEThread.shareTurn()
            isDamaged = try takeBackDamage(of: record)
            log(
                "the backing file of \(record.name.digest) has a hole or another size: "
                    + (isDamaged ? "what is missing is merged again" : "its bytes are right, they go through lamina"))
            return nil
        }
        return try register(file).map { .passthrough($0) }
    }

    /// Takes back what is damaged of a merged content's file, unless somebody merges it just now.
    ///
    /// - Returns: whether anything is.
    private func takeBackDamage(of content: ContentRecord) throws -> Bool {
        try engine.exclusively(content.id) { try store.takeBackDamage(of: content) != .sound } ?? true
    }

    /// A content's file; nil where there is none.
    private func backingFile(_ name: BackingName) throws -> File? {
        do throws(SystemError) {
            return try store.files.open(name)
        } catch {
            if error.code == ENOENT { return nil }
            throw error
        }
    }

    /// What a caller can do something about: everything else is EIO to it.
    private static let honestErrors: Set<Int32> = [EMFILE, ENFILE, ENOMEM, ENOSPC, EDQUOT]

    static func errorNumber(of error: any Error) -> Int32 {
        switch error {
        case let error as SystemError where honestErrors.contains(error.code): error.code
        case let error as StoreError:
            if case .system(let code) = error.code, honestErrors.contains(code) { code } else { EIO }
        case let error as MergeError: error.cause.map(errorNumber) ?? EIO
        default: EIO
        }
    }
}

/// Where a waiter's ticket is found when the waiter is interrupted; it is known only after the merge was asked.
private final class TicketPlace: Sendable {
    let ticket = Mutex<MergeTicket?>(nil)
}
