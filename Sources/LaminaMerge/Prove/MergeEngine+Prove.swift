import LaminaDigest
import LaminaFormats
import LaminaOCI
public import LaminaStore

extension MergeEngine {
    /// Fetches what is missing of a layer and hashes its tar, however long that takes; readers go first all the same.
    ///
    /// Where the tar cannot be put together from what was fetched, the whole blob is read for it.
    /// - Returns: `claimed` where even that tells nothing, as the image says no diff ID.
    /// - Throws: `MergeError`, `StoreError`, `SystemError`, `OCIError` when it cannot be fetched just now.
    public func proveWhole(_ layer: LayerID, shouldStop: @escaping @Sendable () -> Bool) throws -> ChainState {
        let known = try store.index.chainState(of: layer)
        if known != .claimed { return known }
        let pull = pull(layer)
        defer { pull.cancel() }
        while true {
            if shouldStop() || context.stop.isSet { throw MergeError.stopped }
            guard let result = pull.wait(seconds: 0.2) else { continue }
            try result.get()
            break
        }
        try recorder.flush()
        try prover.prove(layer)
        let proven = try store.index.chainState(of: layer)
        if proven != .claimed { return proven }
        let (blob, sources) = try context.sources.sources(of: layer)
        guard let source = sources.first else {
            throw MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        }
        let indexer = LayerIndexer(
            store: store, source: source, requiresDiffID: true, keepsTarSplits: options.keepsTarSplits, space: space,
            limits: options.formatLimits, memory: tocMemory,
            shouldStop: { [context] in shouldStop() || context.stop.isSet },
            didFetch: { [self] in countFetched(Int64($0)) })
        let descriptor = Descriptor(mediaType: "", digest: blob.digest, size: blob.size)
        _ = try indexer.provingDiffID(of: layer, descriptor, nil)
        return try store.index.chainState(of: layer)
    }

    /// Hashes a layer's tar from what is in the store. Nobody is asked for what is missing of it.
    ///
    /// - Returns: `claimed` where that tells nothing. It says nothing against the layer then.
    public func proveFromStore(_ layer: LayerID) throws -> ChainState {
        let known = try store.index.chainState(of: layer)
        let ledger = try store.index.ledger(of: layer)
        guard known == .claimed, ledger.diffIDState == .unknown, let diffID = ledger.diffID else { return known }
        // Not by the prover, which does one layer after the other: another one may wait for its registry there.
        let tar = TarProver(context, layer: layer, ledger: ledger, mayFetch: false)
        guard try tar.digest() != nil, tar.verdict(diffID).0 == .proven else { return .claimed }
        try store.recordProven(layer)
        return try store.index.chainState(of: layer)
    }

    /// Sees that there is a tar-split of a proven layer's tar; reads the whole blob once more where there is none.
    ///
    /// - Returns: whether there is one; false for a tar that cannot be split.
    /// - Throws: `MergeError`, `StoreError`, `OCIError` when the blob cannot be fetched just now.
    public func keepTarSplit(of layer: LayerID, shouldStop: @escaping @Sendable () -> Bool) throws -> Bool {
        guard let diffID = try store.index.ledger(of: layer).diffID else { return false }
        if try store.hasTarSplit(of: diffID) { return true }
        let (blob, sources) = try context.sources.sources(of: layer)
        guard let source = sources.first else {
            throw MergeError(.fetch, "the index knows no place to get layer \(blob.digest) from")
        }
        let indexer = LayerIndexer(
            store: store, source: source, keepsTarSplits: true, space: space,
            shouldStop: { [context] in shouldStop() || context.stop.isSet },
            didFetch: { [self] in countFetched(Int64($0)) })
        try indexer.keepTarSplit(of: layer)
        return try store.hasTarSplit(of: diffID)
    }
}
