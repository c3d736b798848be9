import Glibc
import LaminaDigest
import LaminaFormats
import LaminaStore
import LaminaSystem

/// Makes the tar-split of a tar that comes by to be hashed, and keeps it when the tar turns out to be what it is said to be.
///
/// It never stands in the way of the hash: a tar that cannot be split, and a disk or a store without room, only mean that there is none,
/// and what was written of it goes at once.
final class TarSplitKeeper {
    private let store: Store
    private let diffID: Digest
    private let momentary: MomentaryTarSplit
    private let splitter: TarSplitter
    private let room: Room
    private var failure: (any Error)?
    private var isPlaced = false

    /// What it takes of the store's limit.
    private final class Room {
        private let space: SpaceKeeper?
        /// Bytes that were written.
        private(set) var taken: Int64 = 0

        init(_ space: SpaceKeeper?) { self.space = space }

        func take(_ bytes: Int) throws {
            guard space?.takeIfRoom(Int64(bytes)) ?? true else {
                throw SystemError(code: ENOSPC, operation: "make room in", subject: "the store")
            }
            taken += Int64(bytes)
        }

        func giveBack() {
            space?.removed(taken)
            taken = 0
        }
    }

    /// - Parameter space: the limit that the store has; nil: none.
    /// - Returns: nil where none is wanted, or there is one.
    init?(_ store: Store, _ diffID: Digest?, isWanted: Bool, space: SpaceKeeper? = nil) {
        guard isWanted, let diffID, (try? store.hasTarSplit(of: diffID)) == false,
            let momentary = try? store.beginTarSplit()
        else { return nil }
        let room = Room(space)
        let splitter = try? TarSplitter { bytes in
            let offset = room.taken
            try room.take(bytes.count)
            try momentary.file.write(bytes, at: offset)
        }
        guard let splitter else {
            store.removeTarSplit(momentary)
            return nil
        }
        (self.store, self.diffID, self.momentary, self.splitter) = (store, diffID, momentary, splitter)
        self.room = room
    }

    deinit { if !isPlaced { giveUp() } }

    func take(_ bytes: UnsafeRawBufferPointer) {
        guard failure == nil else { return }
        do {
            try splitter.take(bytes)
        } catch {
            failure = error
            giveUp()
        }
    }

    /// What was written is of no use to anybody, and others may need its room.
    private func giveUp() {
        store.removeTarSplit(momentary)
        room.giveBack()
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
            failure = error
            giveUp()
            return error
        }
    }
}
