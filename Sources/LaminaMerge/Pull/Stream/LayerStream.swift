import LaminaDigest
import LaminaFormats
import LaminaOCI
import LaminaStore
import LaminaSystem

/// Puts a layer without a table of contents into the store: fetch, decompress, take the tar apart, hash and place, in one pass,
/// whose state is recorded every few MiB. The layer is in the index only after the digests of its blob and its tar were right;
/// until then nothing of it is served.
struct LayerStream {
    /// What a power cut costs of a blob, in bytes, besides what comes during the sync.
    private static let syncedBytes: Int64 = 8 << 20

    let engine: MergeEngine
    let source: any BlobSource
    let descriptor: Descriptor
    let diffID: Digest
    /// How the blob is built, if a footer said so; otherwise its first bytes say it.
    var format: LayerFormat?
    /// What all layers of the image may bring together.
    var entries: EntryBudget?
    var shouldStop: @Sendable () -> Bool
    /// Gets how many compressed bytes were fetched in all, and up to where the blob has been placed.
    let report: (_ fetched: Int64, _ placed: Int64) -> Void

    /// Streams the layer, or the rest of it.
    ///
    /// - Throws: `MergeError`, `OCIError`, `StoreError`, `SystemError`. What was recorded stays for the next try, unless the
    ///   layer is wrong.
    func run() throws -> LayerID {
        // One of a blob at a time: the second finds the layer in the index, or goes on where the first has failed or was stopped.
        try engine.streaming.run(descriptor, from: source.location, shouldStop) { shouldStop in
            var stream = self
            stream.shouldStop = shouldStop
            return try stream.runAlone()
        }
    }

    private func runAlone() throws -> LayerID {
        // Whoever wanted it may have left.
        let hold = engine.store.hold([descriptor.digest])
        defer { withExtendedLifetime(hold) {} }
        if let known = try known() {
            entries?.note(known, of: descriptor.digest)
            return known
        }
        var stream = try engine.store.stream(of: descriptor.digest, origin: source.location)
        let goesOn = stream.state != nil
        do {
            return try runOrAbandon(&stream)
        } catch let error as MergeError where goesOn && error.isOfImage && !shouldStop() {
            // What came before may have been wrong, of another server or at another time: it is no error before all of it came anew.
            engine.recorder.report(
                MergeError(
                    error.code, "what had come of layer \(descriptor.digest) is of no use, and it is read anew",
                    cause: error))
            stream = try engine.store.stream(of: descriptor.digest, origin: source.location)
            return try runOrAbandon(&stream)
        }
    }

    /// Forgets what has come of a layer that is wrong: no process can go on from it.
    private func runOrAbandon(_ stream: inout StreamRecord) throws -> LayerID {
        do {
            return try run(&stream)
        } catch let error as FormatError {
            try engine.store.abandon(stream.id, of: descriptor.digest)
            throw MergeError(.badImage, "layer \(descriptor.digest)", cause: error)
        } catch let error as MergeError where error.isOfImage {
            try engine.store.abandon(stream.id, of: descriptor.digest)
            throw error
        }
    }

    /// The repository whose files these are alone; nil where they are shared. Its layer's import has the same names for them.
    private var isolation: String? { engine.options.isolates(source.location) ? source.location : nil }

    /// The layer, if another stream of the blob has brought it meanwhile.
    private func known() throws -> LayerID? {
        try engine.store.known(
            descriptor, diffID, at: source.location, isIsolated: isolation != nil,
            copying: {
                try engine.store.copying($0, of: descriptor.digest, countedBy: entries, importing: engine.importing, $1)
            }
        ) { $0.tocProof == .whole }
    }

    private func run(_ stream: inout StreamRecord) throws -> LayerID {
        var resumed: (state: StreamState, spool: File?)?
        if stream.state != nil || stream.checkpoint != nil {
            resumed = try resume(stream)
            if resumed == nil {
                try engine.store.forget(stream.id, of: descriptor.digest)
                stream = try engine.store.stream(of: descriptor.digest, origin: source.location)
            }
        }
        // First make durable what it goes on from: a power cut must not take it back to a place that needs one of these.
        if resumed != nil { try engine.recorder.sync() }
        let id = stream.id
        try engine.store.files.removeSpools(
            of: id, descriptor.digest,
            except: resumed?.state.file.map {
                ContentFiles.spoolName(id, of: descriptor.digest, offset: $0.entry.offset)
            })
        var state = resumed?.state
        if state?.isVerified != true {
            let position = stream.checkpoint.map {
                StreamPosition(blobOffset: $0.blobOffset, outputOffset: $0.output, decoder: $0.decoder)
            }
            state = try read(from: position ?? .start, stream, state, resumed?.spool)
        }
        guard let state else { throw MergeError(.badImage, "layer \(descriptor.digest) is empty") }
        return try addToIndex(stream.id, state)
    }

    /// What an earlier process has left; nil if this process cannot go on from it.
    private func resume(_ stream: StreamRecord) throws -> (state: StreamState, spool: File?)? {
        guard let bytes = stream.state, let state = StreamState.decode(bytes), state.format != nil,
            state.isVerified || stream.checkpoint != nil
        else { return nil }
        guard let open = state.file else { return (state, nil) }
        let name = ContentFiles.spoolName(stream.id, of: descriptor.digest, offset: open.entry.offset)
        let file = try engine.store.files.openSpool(name)
        guard try file.size() >= open.received else { return nil }
        // Within one boot, what was written before the checkpoint is there.
        if stream.isOfOtherBoot, try file.digest(of: 0..<open.received) != open.hash.digest() { return nil }
        return (state, file)
    }

    private func read(
        from position: StreamPosition, _ stream: StreamRecord, _ state: StreamState?, _ spool: File?
    ) throws -> StreamState {
        let reader = StreamReader(
            source: source, descriptor: descriptor, recorded: max(position.blobOffset, state?.blobOffset ?? 0))
        defer {
            reader.stop()
            engine.countFetched(reader.fetchedBytes)
        }
        try reader.start(
            at: position, format: state?.format ?? format, tar: state?.tarOffset ?? 0, shouldStop: shouldStop)
        func placer(_ state: StreamState) -> StreamPlacer {
            StreamPlacer(
                engine: engine, layer: descriptor.digest, diffID: diffID, stream: stream.id, isolation: isolation,
                state: state, spool: spool)
        }
        var current = (state ?? format.map { StreamState(format: $0) }).map(placer)
        var synced: Int64 = current?.state.blobOffset ?? 0
        while let event = try reader.next() {
            if shouldStop() { throw MergeError.stopped }
            if case .format(let format) = event {
                current = placer(StreamState(format: format))
                continue
            }
            guard let current else { continue }
            switch event {
            case .format: break
            case .blob(let buffer, let range, let offset):
                current.takeBlob(buffer[range], at: offset)
                reader.advance(to: offset + Int64(range.count), isRecorded: false)
            case .output(let buffer, let offset): try current.takeTar(buffer.bytes, at: offset)
            case .checkpoint(let position, let tar):
                // What a reader gives again, on its way to where it goes on, is recorded already.
                guard tar >= current.state.tarOffset else { continue }
                try current.record(position)
                reader.advance(to: current.state.blobOffset, isRecorded: true)
                if current.state.blobOffset - synced >= Self.syncedBytes {
                    synced = current.state.blobOffset
                    engine.recorder.requestSync()
                }
            }
            note(reader.fetchedBytes, current.state.blobOffset)
        }
        guard let current else { throw MergeError(.badImage, "layer \(descriptor.digest) is empty") }
        try current.finish(expecting: diffID)
        try current.settle()
        note(reader.fetchedBytes, current.state.blobOffset)
        return current.state
    }

    private func note(_ fetched: Int64, _ placed: Int64) {
        engine.streaming.note(descriptor, fetched: fetched, placed: placed)
        report(fetched, placed)
    }

    /// Makes the tree of everything that the tar said, and puts the layer into the index.
    private func addToIndex(_ stream: StreamID, _ state: StreamState) throws -> LayerID {
        guard let format = state.format else { throw MergeError(.badImage, "layer \(descriptor.digest) has no format") }
        let limits = engine.options.formatLimits
        var shares = [try engine.tocMemory.take(bytes: state.entryBytes ?? limits.tocBytes, shouldStop)]
        let lines = DisposableBytes(try EntryLines.document(try engine.store.index.lines(of: stream), limits: limits))
        shares.append(try engine.tocMemory.takeTree(TOCMemory.treeBytes(ofJSON: lines.count), shouldStop))
        defer { withExtendedLifetime(shares) {} }
        let tree = try lines.consume { bytes, dispose in
            try LayerTree.parse(
                entries: bytes, tarSize: state.tarOffset, format: format, limits: limits, didRead: dispose)
        }
        let index = IndexBytes(of: tree, isIsolated: isolation != nil)
        try entries?.take(index, of: descriptor.digest, engine.store.index)
        var record = LayerRecord(
            digest: descriptor.digest, diffID: diffID, tocDigest: nil, tocProof: .whole, format: Int(format.rawValue),
            size: descriptor.size, prioritizedEnd: nil, location: source.location)
        record.diffIDState = .proven
        record.isIsolated = isolation != nil
        return try engine.importing(index.bytes) {
            try engine.store.importLayer(record, inodeCount: tree.nodes.count, stream: stream) { try $0.add(tree) }
        }
    }
}
