import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem

/// Makes the tar-split of a tar that comes by to be hashed, and keeps it when the tar turns out to be what it is said to be.
///
/// It never stands in the way of the hash: a tar that cannot be split, and a disk without room, only mean that there is none.
final class TarSplitKeeper {
    private let store: Store
    private let diffID: Digest
    private let momentary: MomentaryTarSplit
    private let splitter: TarSplitter
    private var failure: (any Error)?
    private var isPlaced = false

    /// - Returns: nil where none is wanted, or there is one.
    init?(_ store: Store, _ diffID: Digest?, isWanted: Bool) {
        guard isWanted, let diffID, (try? store.hasTarSplit(of: diffID)) == false,
            let momentary = try? store.beginTarSplit()
        else { return nil }
        var offset: Int64 = 0
        let splitter = try? TarSplitter { bytes in
            try momentary.file.write(bytes, at: offset)
            offset += Int64(bytes.count)
        }
        guard let splitter else {
            store.removeTarSplit(momentary)
            return nil
        }
        (self.store, self.diffID, self.momentary, self.splitter) = (store, diffID, momentary, splitter)
    }

    deinit { if !isPlaced { store.removeTarSplit(momentary) } }

    func take(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        do { try splitter.take(bytes) } catch { failure = error }
    }

    /// Keeps it: the tar had the diff ID.
    ///
    /// - Returns: why it cannot be kept; nil if it is.
    @discardableResult
    func keep() -> (any Error)? {
        if let failure { return failure }
        do {
            try splitter.finish()
            try store.placeTarSplit(momentary, of: diffID, size: splitter.tarSize)
            isPlaced = true
            return nil
        } catch {
            return error
        }
    }
}
