import Glibc
public import LaminaFUSE
import LaminaMerge
import LaminaStore
import LaminaSystem
import Synchronization

// Reads of cached opens. Only node and offset decide the answer, not the handle, so that another process can go on.

extension LayerFilesystem {
    public func read(
        node: UInt64, handle: UInt64, offset: Int64, size: Int, thread: FUSEThread, reply: consuming ReadReply
    ) {
        counters.reads.add(1, ordering: .relaxed)
        serve(node, offset, size, reader(thread), mayWait: false, reply)
    }

    /// - Parameter mayWait: whether the calling thread may wait for the merge's plan.
    private func serve(
        _ node: UInt64, _ offset: Int64, _ size: Int, _ reader: IndexReader, mayWait: Bool, _ reply: consuming ReadReply
    ) {
        do {
            guard let inode = try reader.inode(Int64(bitPattern: node)) else { return reply.error(ENOENT) }
            let end = min(inode.size, offset.addingReportingOverflow(Int64(size)).partialValue)
            guard let content = inode.content, offset >= 0, offset < end else {
                return reply.bytes(UnsafeRawBufferPointer(start: nil, count: 0))
            }
            let range = offset..<end
            guard let hasLanded = try hasLanded(range, of: content, reader, mayWait: mayWait) else {
                let parked = reply.park()
                return later.run { [self] in
                    if let reply = parked.take() { serve(node, offset, size, spareReader, mayWait: true, reply) }
                }
            }
            if hasLanded, let file = try file(of: content, reader) { return answer(range, file, reply) }
            wait(for: range, of: content, in: try reader.layerID(of: inode.id), reply)
        } catch {
            report(error)
            reply.error(EIO)
        }
    }

    /// Parks a read until its chunks have landed, or cannot land.
    private func wait(
        for range: Range<Int64>, of content: ContentID, in layer: LayerID?, isRetry: Bool = false,
        _ reply: consuming ReadReply
    ) {
        let parked = reply.park()
        let take: @Sendable (UnsafeRawBufferPointer) -> Void = { [self] bytes in
            guard let reply = parked.take() else { return }
            counters.readBytes.add(UInt64(bytes.count), ordering: .relaxed)
            reply.bytes(bytes)
        }
        askMerge { [self] in
            engine.range(range, of: content, in: layer, take: take) { [self] result in
                if isLeft(parked, result) { return }
                guard let reply = parked.take() else { return }
                switch result {
                case .success:
                    do {
                        if let file = try file(of: content, spareReader) { return answer(range, file, reply) }
                        // Evicted since.
                        if !isRetry { return wait(for: range, of: content, in: layer, isRetry: true, reply) }
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
    }

    /// Whether a range can be read from the content's file. Unlike an open, it asks the merge first: a repair of a file holds
    /// its content there, and a read does not look for holes.
    ///
    /// - Returns: nil if the merge's plan is not free now, and the calling thread may not wait for it.
    private func hasLanded(
        _ range: Range<Int64>, of content: ContentID, _ reader: IndexReader, mayWait: Bool
    ) throws -> Bool? {
        guard let knowledge = mayWait ? engine.knowledge(of: content) : engine.knowledgeNow(of: content) else {
            return nil
        }
        switch knowledge {
        case .merged: return true
        case .merging: return engine.hasLanded(range, of: content)
        case .none: return try reader.isMerged(content)
        }
    }

    /// The backing file of what has landed; nil if it was removed a moment ago.
    private func file(of content: ContentID, _ reader: IndexReader) throws -> File? {
        do {
            return try files.file(of: content) {
                guard let record = try reader.content(content) else {
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
