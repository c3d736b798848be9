import CFuse
import Glibc
import Synchronization

/// The part that all replies share: the request, answered exactly once.
///
/// A type that holds one is `~Copyable` and gives it up in consuming methods, so that a second answer does not compile. If it
/// is dropped, it answers EIO.
struct PendingReply: ~Copyable, @unchecked Sendable {
    // @unchecked: libfuse's requests may be answered on any thread, and only this value answers this one.
    let request: OpaquePointer
    /// Identifies the request on its connection.
    let unique: UInt64
    // A reply keeps the session's memory alive, which libfuse needs to answer. Unmanaged, because only a type with trivial
    // fields can be discarded.
    private let core: Unmanaged<SessionCore>

    init(request: OpaquePointer, unique: UInt64, core: SessionCore) {
        self.request = request
        self.unique = unique
        self.core = .passRetained(core)
    }

    deinit {
        core._withUnsafeGuaranteedRef { core in
            core.droppedReplies.add(1, ordering: .relaxed)
            assert(!core.configuration.stopsAtDroppedReplies, "a FUSE reply was dropped unanswered")
        }
        lamina_fuse_reply_error(request, EIO)
        core.release()
    }

    /// Answers by `body`; returns whether the kernel still waited for it.
    consuming func answer(_ body: (OpaquePointer) -> Int32) -> Bool {
        let result = body(request)
        core.release()
        discard self
        return result == 0
    }

    /// Answers with an errno value.
    consuming func refuse(_ code: Int32) {
        _ = answer { lamina_fuse_reply_error($0, code) }
    }

    borrowing func withCore<Result>(_ body: (SessionCore) -> Result) -> Result {
        core._withUnsafeGuaranteedRef { body($0) }
    }
}
