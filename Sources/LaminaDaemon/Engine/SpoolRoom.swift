import LaminaMerge
import Synchronization

/// Has what is kept of blobs whose servers know no ranges count against the limit of the store: the clients of registries are made before
/// the merge that knows the limit.
final class SpoolRoom: Sendable {
    private let merge = Mutex<MergeEngine?>(nil)

    func set(_ merge: MergeEngine?) { self.merge.withLock { $0 = merge } }

    func reserve(_ bytes: Int64, of whole: Int64) throws {
        try merge.withLock { $0 }?.reserveSpool(bytes, of: whole)
    }

    func release(_ bytes: Int64) { merge.withLock { $0 }?.releaseSpool(bytes) }
}
