import Glibc
public import LaminaFUSE
import LaminaMerge
import LaminaStore
import LaminaSystem
import Synchronization

// An open has two steps. The first step reads memory and the index, and writes its decision down at once. The second step looks
// at the file, and holds no lock (OpenTable). Other threads do what takes longer than some calls of the kernel (hashing, giving
// up what is kept, waiting for the index's writer or for the merge's plan); the reply is parked meanwhile.
//
// The four ways to serve an open:
//   merged                            passthrough: the kernel reads the backing file
//   not merged, small                 waits for the merge of this file, then passthrough
//   not merged, larger                at once, cached mode; the merge goes on behind it
//   merged since, cached opens left   cached mode, from the backing file

extension LayerFilesystem {
    /// An open, from its request and the index.
    private struct Opening: Sendable {
        var node: UInt64
        var content: ContentID
        var size: Int64
        var request: OpenTable.Request
    }

    /// What a look at a merged content's file has shown.
    private enum Look: Sendable {
        case passthrough(BackingID)
        case cached
        /// Damaged, as far as can be told without reading it.
        case damaged(ContentRecord)
        /// It could not be opened, because file descriptors are short.
        case crowded(SystemError)
    }

    public func open(node: UInt64, flags: Int32, thread: FUSEThread, reply: consuming OpenReply) {
        let request = OpenTable.Request(unique: reply.unique, isResent: reply.isResent)
        do {
            guard let inode = try reader(thread).inode(Int64(bitPattern: node)) else { return reply.error(ENOENT) }
            guard inode.mode & UInt32(S_IFMT) == UInt32(S_IFREG) else { return reply.error(EINVAL) }
            // Of a layer that is another one than was said nothing is served any more.
            if store.quarantined.contains(inode.id) { return reply.error(EIO) }
            guard let content = inode.content else {
                return answer(OpenTable.Open(mode: .cached, handle: 0), node, reply)
            }
            store.uses.note(inode.id, content)
            let opening = Opening(node: node, content: content, size: inode.size, request: request)
            serve(opening, reader(thread), mayWait: false, reply)
        } catch {
            refuse(error, reply)
        }
    }

    /// This serves most opens.
    public func reopen(node: UInt64, thread: FUSEThread, reply: consuming ReopenReply) -> Bool {
        let request = OpenTable.Request(unique: reply.unique, isResent: reply.isResent)
        if store.quarantined.contains(Int64(bitPattern: node)) { return false }
        // Where no more opens can be recorded, the other way says so.
        guard let again = try? opens.again(node, request) else { return false }
        if !reply.passthrough(again.backing, handle: again.handle) { opens.release(node, again.handle) }
        // A caller waits for the answer, but none for the counters.
        counters.passthrough.add(1, ordering: .relaxed)
        store.uses.note(Int64(bitPattern: node), again.content)
        return true
    }

    public func release(node: UInt64, handle: UInt64, thread: FUSEThread) { opens.release(node, handle) }

    // MARK: The first step: what memory and the index know

    /// - Parameter mayWait: whether the calling thread may wait for the merge's plan.
    private func serve(
        _ opening: Opening, _ reader: IndexReader, mayWait: Bool, _ reply: consuming OpenReply
    ) {
        do {
            guard let isMerged = try isMerged(opening.content, reader, mayWait: mayWait) else {
                let parked = reply.park()
                return later.run { [self] in
                    if let reply = parked.take() { serve(opening, spareReader, mayWait: true, reply) }
                }
            }
            switch try opens.open(opening.node, opening.content, opening.request, bytes(of: opening, isMerged)) {
            case .served(let open):
                if !isMerged {
                    let layer = try? reader.layerID(of: Int64(bitPattern: opening.node))
                    askMerge { [engine] in engine.background(opening.content, of: layer) }
                }
                answer(open, opening.node, reply)
            case .decide: decide(opening, reader, reply)
            case .pending: join(opening, reply)
            case .merge:
                counters.waited.add(1, ordering: .relaxed)
                wait(for: opening, of: try reader.layerID(of: Int64(bitPattern: opening.node)), reply)
            }
        } catch {
            refuse(error, reply)
        }
    }

    private func bytes(of opening: Opening, _ isMerged: Bool) -> OpenTable.Bytes {
        if isMerged { return .merged }
        return opening.size <= options.lazyThreshold ? .awaited : .missing
    }

    /// Waits for the look at the file that another open of the same inode has begun.
    private func join(_ opening: Opening, _ reply: consuming OpenReply) {
        let parked = reply.park()
        let hasJoined = opens.join(opening.node) { [self] result, reader in
            if isLeft(parked, result) { return }
            guard let reply = parked.take() else { return }
            switch result {
            case .success: serve(opening, reader, mayWait: false, reply)
            case .failure(let error): reply.error(Self.errorNumber(of: error))
            }
        }
        guard !hasJoined, let reply = parked.take() else { return }
        // The look is over, and its result is recorded.
        serve(opening, spareReader, mayWait: false, reply)
    }

    /// Parks an open until its file is merged, or cannot be.
    private func wait(for opening: Opening, of layer: LayerID?, _ reply: consuming OpenReply) {
        let place = TicketPlace()
        let parked = reply.park { [engine] in
            if let ticket = place.ticket.withLock({ $0 }) { _ = engine.leave(ticket) }
        }
        askMerge { [self] in
            let ticket = engine.whole(opening.content, of: layer) { [self] result in
                if isLeft(parked, result) { return }
                guard let reply = parked.take() else { return }
                switch result {
                case .success: openMerged(opening, reply)
                case .failure(let error):
                    log("a file cannot be opened: \(error)")
                    reply.error(Self.errorNumber(of: error))
                }
            }
            place.ticket.withLock { $0 = ticket }
        }
    }

    /// Opens a file that was merged a moment ago, on a thread of the merge: the index may not know it yet.
    private func openMerged(_ opening: Opening, _ reply: consuming OpenReply) {
        do {
            switch try opens.open(opening.node, opening.content, opening.request, bytes(of: opening, true)) {
            case .served(let open): answer(open, opening.node, reply)
            case .decide: decide(opening, spareReader, reply)
            case .pending: join(opening, reply)
            case .merge: reply.error(EIO)
            }
        } catch {
            refuse(error, reply)
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
        // No caller waits for the answer any more, so no release will come.
        if !isTaken { opens.release(node, open.handle) }
    }

    private func refuse(_ error: any Error, _ reply: consuming OpenReply) {
        report(error)
        reply.error(Self.errorNumber(of: error))
    }

    // MARK: The second step: a look at the file

    /// Looks at a merged content's file, which takes some calls of the kernel. Other threads do whatever takes longer; the
    /// reply is parked meanwhile. Opens of other inodes wait for neither.
    private func decide(_ opening: Opening, _ reader: IndexReader, _ reply: consuming OpenReply) {
        do {
            switch try look(opening.content, reader) {
            case .passthrough(let backing): settle(opening, .passthrough(backing), reader, reply)
            case .cached: settle(opening, .cached, reader, reply)
            case let found:
                let parked = reply.park()
                examinations.run { [self] in examine(opening, found, parked) }
            }
        } catch {
            let joined = opens.abandon(opening.node)
            refuse(error, reply)
            for each in joined { each(.failure(error), reader) }
        }
    }

    /// Looks at a merged content's file, and gives it to the kernel if nothing is wrong with it, and the kernel takes files.
    private func look(_ content: ContentID, _ reader: IndexReader) throws -> Look {
        guard let record = try reader.content(content) else { return .cached }
        do throws(SystemError) {
            guard let file = try backingFile(record.name) else {
                // Evicted a moment ago, or gone: the reads of a cached open ask for it again.
                return record.state == .merged ? .damaged(record) : .cached
            }
            // The last line of defence: a mapping of a hole reads zeros, which were not verified unless the layer lists them.
            guard try file.size() == record.size, try isWhole(file, record) else { return .damaged(record) }
            guard passthroughRefusal == nil else { return .cached }
            return try register(file).map { .passthrough($0) } ?? .cached
        } catch {
            if error.code == EMFILE || error.code == ENFILE { return .crowded(error) }
            throw error
        }
    }

    /// Whether a file has no hole, except holes that were verified to be zeros.
    private func isWhole(_ file: File, _ content: ContentRecord) throws(SystemError) -> Bool {
        if try file.firstHole() == content.size { return true }
        // If the index cannot say, the file is examined.
        guard let verified = try? store.index.holes(of: content.id) else { return false }
        return try file.holeBytes() <= verified
    }

    /// Does what the look showed to be necessary, however long it takes.
    private func examine(_ opening: Opening, _ found: Look, _ parked: ParkedReply<OpenReply>) {
        do {
            var found = found
            if case .crowded(let error) = found {
                opens.releaseIdle()
                found = try look(opening.content, spareReader)
                if case .crowded = found { throw error }
            }
            if case .damaged(let record) = found {
                let isDamaged = try takeBackDamage(of: record)
                log(
                    "the backing file of \(record.name.digest) is gone, has a hole or another size: "
                        + (isDamaged
                            ? "what is missing is merged again" : "its bytes are right, they go through lamina"))
                // Other inodes with these bytes may have kept the damaged file.
                if isDamaged { opens.releaseIdle() }
            }
            var mode = OpenTable.Mode.cached
            if case .passthrough(let backing) = found { mode = .passthrough(backing) }
            if let reply = parked.take() {
                settle(opening, mode, spareReader, reply)
            } else {
                for each in opens.settle(opening.node, opening.content, nil, mode).joined {
                    each(.success(()), spareReader)
                }
            }
        } catch {
            let joined = opens.abandon(opening.node)
            if !isLeft(parked, Result<Void, any Error>.failure(error)), let reply = parked.take() {
                refuse(error, reply)
            }
            for each in joined { each(.failure(error), spareReader) }
        }
    }

    /// Takes back what is damaged of a merged content's file, unless a merge of it is running. Holes in the file are hashed.
    ///
    /// - Returns: whether anything was damaged.
    private func takeBackDamage(of content: ContentRecord) throws -> Bool {
        try engine.exclusively(content.id) {
            try store.takeBackDamage(of: content) { [self] in isEnding } != .sound
        } ?? true
    }

    /// Records how an inode is served now, and answers the opens that waited for it: first the one that looked.
    private func settle(
        _ opening: Opening, _ mode: OpenTable.Mode, _ reader: IndexReader, _ reply: consuming OpenReply
    ) {
        let (open, joined) = opens.settle(opening.node, opening.content, opening.request, mode)
        switch open {
        case .success(let open?): answer(open, opening.node, reply)
        case .success(nil): reply.error(EIO)
        case .failure(let error): refuse(error, reply)
        }
        for each in joined { each(.success(()), reader) }
    }

    /// A content's file; nil if there is none.
    private func backingFile(_ name: BackingName) throws(SystemError) -> File? {
        do throws(SystemError) {
            return try store.files.open(name)
        } catch {
            if error.code == ENOENT { return nil }
            throw error
        }
    }

    // MARK: What the merge knows

    /// Whether a content is whole. The merge may know of it before the index does.
    ///
    /// - Parameter mayWait: whether the calling thread may wait for the merge's plan.
    /// - Returns: nil if only the merge knows, and its plan is not free now.
    func isMerged(_ content: ContentID, _ reader: IndexReader, mayWait: Bool) throws -> Bool? {
        if try reader.isMerged(content) {
            // A reader that reads on makes the merge fetch on.
            _ = engine.knowledgeNow(of: content)
            return true
        }
        guard let knowledge = mayWait ? engine.knowledge(of: content) : engine.knowledgeNow(of: content) else {
            return nil
        }
        switch knowledge {
        case .merged: return true
        case .merging: return false
        // The content may have been recorded, and forgotten by the merge, since the index was asked.
        case .none: return try reader.isMerged(content)
        }
    }

    /// Asks the merge for something: at once if its plan is free, else on a thread that may wait for it.
    func askMerge(_ ask: @escaping @Sendable () -> Void) {
        if engine.isPlanFree { ask() } else { later.run(ask) }
    }

    /// The errors that a caller can act on; all others are EIO to it.
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

extension IndexReader {
    /// Whether the index says that a content is whole.
    func isMerged(_ content: ContentID) throws -> Bool {
        guard let record = try self.content(content) else { return false }
        return record.state == .merged && record.proof != .disproven
    }
}

/// Where an interrupt finds the ticket of a waiter; the ticket is known only after the merge was asked.
private final class TicketPlace: Sendable {
    let ticket = Mutex<MergeTicket?>(nil)
}
