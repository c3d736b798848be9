import Glibc
import LaminaStore
import LaminaSystem
import Synchronization

/// Backing files that cached opens are read from, kept open between reads.
///
/// A content's name may come to mean another file: when the content is taken over from another one, or parts from a file that
/// it shared. The old file is then full of holes, so a kept file is used only while it has the name.
final class OpenFileCache: Sendable {
    private static let limit = 64

    private struct Entry {
        var file: File
        var name: BackingName
        var inode: ino_t
        var used: UInt64
    }

    private struct State {
        var files: [ContentID: Entry] = [:]
        var clock: UInt64 = 0
    }

    private let files: ContentFiles
    private let state = Mutex(State())

    init(files: ContentFiles) { self.files = files }

    /// The open backing file of a content. Call it only after finding out what has landed.
    ///
    /// - Parameter name: called if the file is not open yet.
    func file(of content: ContentID, named name: () throws -> BackingName) throws -> File {
        let known = state.withLock { state -> Entry? in
            guard let entry = state.files[content] else { return nil }
            state.clock += 1
            state.files[content]?.used = state.clock
            return entry
        }
        if let known, hasName(known) { return known.file }
        let name = try name()
        let opened = try files.open(name)
        let inode = try opened.status().st_ino
        return state.withLock { state in
            state.clock += 1
            if state.files.count >= Self.limit, let oldest = state.files.min(by: { $0.value.used < $1.value.used }) {
                state.files[oldest.key] = nil
            }
            state.files[content] = Entry(file: opened, name: name, inode: inode, used: state.clock)
            return opened
        }
    }

    /// Closes files whose names are being removed.
    func forget(_ contents: Set<ContentID>) {
        state.withLock { state in for content in contents { state.files[content] = nil } }
    }

    func forgetAll() { state.withLock { $0.files = [:] } }

    /// Whether the file's name is still its own. The inode number of an open file is not reused.
    private func hasName(_ entry: Entry) -> Bool { files.hasInode(entry.inode, entry.name) }
}
