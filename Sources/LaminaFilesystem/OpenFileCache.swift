import LaminaStore
import LaminaSystem
import Synchronization

/// Backing files that cached opens are read from, kept open between reads.
final class OpenFileCache: Sendable {
    private static let limit = 64

    private struct State {
        var files: [ContentID: (file: File, used: UInt64)] = [:]
        var clock: UInt64 = 0
    }

    private let files: BackingFiles
    private let state = Mutex(State())

    init(files: BackingFiles) { self.files = files }

    /// The open backing file of a content.
    ///
    /// - Parameter name: asked when it is not open yet.
    func file(of content: ContentID, named name: () throws -> BackingName) throws -> File {
        let known = state.withLock { state -> File? in
            guard let entry = state.files[content] else { return nil }
            state.clock += 1
            state.files[content]?.used = state.clock
            return entry.file
        }
        if let known { return known }
        let opened = try files.open(try name())
        return state.withLock { state in
            state.clock += 1
            if state.files.count >= Self.limit, let oldest = state.files.min(by: { $0.value.used < $1.value.used }) {
                state.files[oldest.key] = nil
            }
            state.files[content] = (opened, state.clock)
            return opened
        }
    }
}
