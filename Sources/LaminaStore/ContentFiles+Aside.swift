import Glibc
import LaminaSQLite
import LaminaSystem
import Synchronization

// A file that is lost, or too short, comes back with holes in it until all of it has landed. lamina knows which bytes are
// there. The kernel, which itself shows the file if a sealed chain has it, does not know that. So such a file is written beside
// its name, and gets the name when it is whole: until then a sealed mount says that it is not there, or that it ends early, and
// never shows a zero that was not verified.

extension ContentFiles {
    /// The suffix of a file that is written beside its name.
    static let asideSuffix = ".aside"

    /// Where a name's file is: beside the name while it is written there.
    func path(of name: BackingName) -> String {
        guard asideCount.load(ordering: .acquiring) > 0, isAside(name) else { return name.path }
        return name.path + Self.asideSuffix
    }

    func isAside(_ name: BackingName) -> Bool { aside.withLock { $0.contains(name) } }

    /// Has a name's file written beside the name from now on, with what there is of it.
    func putAside(_ name: BackingName) throws(SystemError) {
        guard !isAside(name) else { return }
        let path = name.path + Self.asideSuffix
        let copy = try File(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: StoreDirectory.fileMode, in: directory)
        do throws(SystemError) {
            let old = try File(name.path, O_RDONLY | O_NOFOLLOW, in: directory)
            try copy.copyRange(from: old, at: 0, to: 0, count: Int(old.size()))
        } catch {
            if error.code != ENOENT { throw error }
        }
        aside.withLock { set in
            set.insert(name)
            asideCount.store(set.count, ordering: .releasing)
        }
    }

    /// Gives a file that is whole its name.
    func finishAside(_ name: BackingName) throws(SystemError) {
        guard isAside(name) else { return }
        try rename(name.path + Self.asideSuffix, to: name.path)
        forgetAside(name)
    }

    /// Forgets a file beside its name: another file has the name, or no file is to have it.
    func dropAside(_ name: BackingName) {
        guard asideCount.load(ordering: .acquiring) > 0, isAside(name) else { return }
        unlinkat(directory.descriptor, name.path + Self.asideSuffix, 0)
        forgetAside(name)
    }

    private func forgetAside(_ name: BackingName) {
        aside.withLock { set in
            set.remove(name)
            asideCount.store(set.count, ordering: .releasing)
        }
    }
}

extension Store {
    /// Has a damaged file written beside its name, if a sealed chain in use would show its holes.
    ///
    /// Call it while no merge of the content runs, before anything of it is taken back.
    public func putAsideIfSealed(_ content: ContentRecord, _ health: ContentHealth) throws {
        switch health {
        case .absent, .short: break
        case .sound, .holed, .wrong: return
        }
        let isSealed = try index.read { database in
            try database.cached("SELECT 1 FROM sealed_use LIMIT 1").first { _ in true } == true
                && database.isSealed(content.id)
        }
        if isSealed { try files.putAside(content.name) }
    }

    /// Gives whole files their names, before the index says that they are whole.
    func finishAside(_ contents: [ContentID]) throws {
        guard files.asideCount.load(ordering: .acquiring) > 0 else { return }
        for content in contents {
            guard let record = try index.content(content) else { continue }
            do {
                try files.finishAside(record.name)
            } catch {
                throw StoreError(.system(error.code), "cannot give a mended file its name", cause: error)
            }
        }
    }
}
