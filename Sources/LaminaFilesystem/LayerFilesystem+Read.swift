import Glibc
public import LaminaFUSE
import LaminaMerge
import LaminaStore
import LaminaSystem
import Synchronization

// Reads of cached opens. Answered from node and offset alone: the handle says nothing, so that another process can go on.

extension LayerFilesystem {
    public func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply
    ) {
        counters.reads.add(1, ordering: .relaxed)
        do {
            guard let inode = try reader(thread).inode(Int64(bitPattern: node)) else { return reply.error(ENOENT) }
            let end = min(inode.size, offset.addingReportingOverflow(Int64(size)).partialValue)
            guard let content = inode.content, offset >= 0, offset < end else {
                return reply.bytes(UnsafeRawBufferPointer(start: nil, count: 0))
            }
            let range = offset..<end
            if try hasLanded(range, of: content, reader(thread)), let file = try file(of: content) {
                return answer(range, file, reply)
            }
            wait(for: range, of: content, reply)
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    /// Parks a read until its chunks have landed, or cannot.
    private func wait(
        for range: Range<Int64>, of content: ContentID, isRetry: Bool = false, _ reply: consuming ReadReply
    ) {
        let parked = reply.park()
        let take: @Sendable (UnsafeRawBufferPointer) -> Void = { [self] bytes in
            guard let reply = parked.take() else { return }
            counters.readBytes.add(UInt64(bytes.count), ordering: .relaxed)
            reply.bytes(bytes)
        }
        engine.range(range, of: content, take: take) { [self] result in
            if isLeft(parked, result) { return }
            guard let reply = parked.take() else { return }
            switch result {
            case .success:
                do {
                    if let file = try file(of: content) { return answer(range, file, reply) }
                    // Evicted since.
                    if !isRetry { return wait(for: range, of: content, isRetry: true, reply) }
                    log("the file of \(content) is missing")
                } catch {
                    report(error)
                }
                reply.error(EIO)
            case .failure(let error):
                log("bytes \(range) of a file cannot be read: \(error)")
                reply.error(Self.errorNumber(of: error))
            }
        }
    }

    private func hasLanded(_ range: Range<Int64>, of content: ContentID, _ reader: IndexReader) throws -> Bool {
        switch engine.knowledge(of: content) {
        case .merged: return true
        case .merging: return engine.hasLanded(range, of: content)
        case .none: return try isMerged(content, reader)
        }
    }

    /// The backing file of what has landed; nil where it was taken away a moment ago.
    private func file(of content: ContentID) throws -> File? {
        do {
            return try files.file(of: content) {
                guard let record = try spareReader.content(content) else {
                    throw StoreError(.notFound, "\(content) is not in the index")
                }
                return record.name
            }
        } catch let error as SystemError where error.code == ENOENT {
            return nil
        }
    }

    /// Sends landed bytes from the backing file.
    private func answer(_ range: Range<Int64>, _ file: File, _ reply: consuming ReadReply) {
        counters.readBytes.add(UInt64(range.count), ordering: .relaxed)
        reply.file(file.descriptor, offset: range.lowerBound, count: range.count)
    }
}
