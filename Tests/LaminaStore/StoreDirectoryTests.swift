import Glibc
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@Suite("Whose a store is")
struct StoreDirectoryTests {
    let scratch = Scratch.inMemory()

    private func mode(_ path: String) throws -> mode_t {
        var status = stat()
        guard lstat(path, &status) == 0 else { throw SystemError.last("stat", path) }
        return status.st_mode & 0o7777
    }

    private func refusal(_ root: String) throws -> StoreError {
        let error = try #require(throws: StoreError.self) { _ = try Store(root: root) }
        #expect(error.code == .foreign, "\(error)")
        return error
    }

    @Test("a new store, its index, log and files are their owner's alone")
    func new() throws {
        let root = scratch.root + "/store"
        let store = try Store(root: root)
        let name = BackingName(digest: digest("x"), claim: nil)
        _ = try store.files.make(name, size: 10)
        #expect(try mode(root) == 0o700)
        for directory in ["content", "content/ab", "content/stream"] {
            #expect(try mode("\(root)/\(directory)") == 0o700, "\(directory)")
        }
        for file in ["index.db", "index.db-wal", "index.db-shm", "lock", "content/" + name.path] {
            #expect(try mode("\(root)/\(file)") == 0o600, "\(file)")
        }
    }

    @Test("a store that others may look into is tightened when it is opened")
    func tightened() throws {
        let root = scratch.root + "/store"
        _ = try Store(root: root)
        chmod(root, 0o755)
        for name in ["index.db", "lock"] { chmod("\(root)/\(name)", 0o644) }
        chmod(root + "/content", 0o755)
        let store = try Store(root: root)
        defer { withExtendedLifetime(store) {} }
        #expect(try mode(root) == 0o700 && mode(root + "/content") == 0o700)
        for name in ["index.db", "index.db-wal", "index.db-shm", "lock"] {
            #expect(try mode("\(root)/\(name)") == 0o600, "\(name)")
        }
    }

    @Test(
        "a store that a group or everybody may write to is refused, and left as it is",
        arguments: [0o770, 0o707, 0o1777])
    func writable(mode wanted: mode_t) throws {
        let root = scratch.root + "/store"
        mkdir(root, 0o700)
        chmod(root, wanted)
        let error = try refusal(root)
        #expect(error.message.contains(root) && error.message.contains("chmod 0700"), "\(error)")
        #expect(try mode(root) == wanted && File.names(inDirectory: root).isEmpty)
    }

    @Test(
        "a directory with other things in it is not closed to others, but refused; an empty one, or a disk's own, is taken"
    )
    func others() throws {
        let root = scratch.root + "/store"
        mkdir(root, 0o755)
        mkdir(root + "/lost+found", 0o700)
        _ = try Store(root: root)
        #expect(try mode(root) == 0o700)
        let srv = scratch.root + "/srv"
        mkdir(srv, 0o755)
        _ = try File(srv + "/www", O_WRONLY | O_CREAT)
        #expect(try refusal(srv).message.contains("other things"))
        #expect(try mode(srv) == 0o755 && File.names(inDirectory: srv) == ["www"])
        chmod(srv, 0o700)
        _ = try Store(root: srv)
    }

    @Test("a store of somebody else's is refused, for looking too", .enabled(if: geteuid() == 0, "it takes root"))
    func foreign() throws {
        let root = scratch.root + "/store"
        _ = try Store(root: root)
        #expect(chown(root, 65534, 65534) == 0)
        let error = try refusal(root)
        #expect(error.message.contains("(65534)") && error.message.contains("chown"), "\(error)")
        let looked = try #require(throws: StoreError.self) { _ = try Index(root: root) }
        #expect(looked.code == .foreign)
    }

    @Test(
        "a link on the way that somebody else owns is refused, wherever it is, and one of root's is followed",
        .enabled(if: geteuid() == 0, "it takes root"))
    func links() throws {
        let root = scratch.root + "/there/store"
        mkdir(scratch.root + "/there", 0o755)
        _ = try Store(root: root)
        let (last, middle) = (scratch.root + "/last", scratch.root + "/middle")
        symlink("there/store", last)
        symlink(scratch.root + "/there", middle)
        for path in [last, middle + "/store"] { _ = try Store(root: path) }
        for link in [last, middle] { #expect(lchown(link, 65534, 65534) == 0) }
        for (path, link) in [(last, last), (middle + "/store", middle), (middle + "/new", middle)] {
            let error = try #require(throws: StoreError.self) { try StoreDirectory.refuseForeignLinks(path) }
            #expect(
                error.code == .foreign && error.message.contains(link) && error.message.contains("(65534)"), "\(error)")
        }
        for path in [last, middle + "/store"] { _ = try refusal(path) }
    }

    @Test("a backing file in whose place there is a link is not written through")
    func leaf() throws {
        let store = try scratch.open()
        let name = BackingName(digest: digest("x"), claim: nil)
        let victim = scratch.root + "/victim"
        _ = try File(victim, O_WRONLY | O_CREAT)
        symlink(victim, "\(scratch.root)/content/\(name.path)")
        #expect(throws: SystemError.self) { _ = try store.files.make(name, size: 10) }
        #expect(throws: SystemError.self) { _ = try store.files.open(name) }
        #expect(try File(victim, O_RDONLY).size() == 0)
    }
}
