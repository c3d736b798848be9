import Glibc
import LaminaDigest
import LaminaStore
import LaminaSystem
import Testing

@testable import LaminaPodman

@Suite("An image store and what podman has upon it")
struct PodmanImageStoreTests {
    @Test("what stands upon an image whose tag has moved keeps that one, and no other from being removed")
    func movedTag() throws {
        let fixture = try ImageStoreFixture()
        let old = try fixture.image("r.example/app:1", "base", "old")
        try fixture.image("r.example/other:1", "other")
        let images = try fixture.imageStore()
        try images.update()
        try fixture.container("web", of: old, above: StorageNames.layers([.of("base"), .of("old")])[1])
        #expect(try images.uses(of: "r.example/app:1").contains { $0.kind == .container && $0.name == "web" })
        // The tag moves: what was there stays without a name.
        try fixture.image("r.example/app:1", "base", "new")
        try images.update()
        #expect(try fixture.store.index.podmanImages().count == 3 && images.keepsMore)
        #expect(try images.uses(of: "r.example/other:1").isEmpty)
        // The new one has the old one's lowest layer. It stays for the container, which is no reason either.
        #expect(try images.uses(of: "r.example/app:1").isEmpty)
    }

    // MARK: What cannot be read

    /// An image store that keeps an image, whose tag has moved, for a container.
    private func keeping() throws -> (fixture: ImageStoreFixture, images: PodmanImageStore, old: Digest) {
        let fixture = try ImageStoreFixture()
        let old = try fixture.image("r.example/app:1", "old")
        let images = try fixture.imageStore()
        try images.update()
        try fixture.container("db", of: old, above: .of("old"))
        try fixture.image("r.example/app:1", "new")
        try images.update()
        return (fixture, images, old)
    }

    private func shows(_ id: Digest, _ fixture: ImageStoreFixture) throws -> Bool {
        try fixture.store.index.podmanImages().contains { $0.id == id }
    }

    @Test(
        "a graph root that had something and is not there keeps what it had; when it is there again, its records count")
    func graphRootNotMounted() throws {
        let (fixture, images, old) = try keeping()
        #expect(try shows(old, fixture))
        // A server that starts before podman's file system is mounted.
        #expect(rename(fixture.graphRoot, fixture.graphRoot + ".elsewhere") == 0)
        try createDirectories(fixture.graphRoot)
        let later = try fixture.imageStore()
        try later.update(force: true)
        #expect(try shows(old, fixture))
        #expect(throws: PodmanError.self) { _ = try later.uses(of: "r.example/app:1") }
        #expect(rmdir(fixture.graphRoot) == 0)
        #expect(rename(fixture.graphRoot + ".elsewhere", fixture.graphRoot) == 0)
        try fixture.put("overlay-containers/containers.json", "[]")
        try fixture.put("overlay-layers/layers.json", "[]")
        try later.update(force: true)
        #expect(try !shows(old, fixture))
        _ = images
    }

    @Test(
        "podman's configuration is read each time: another graph root counts, the former too, and none that can be read keeps all"
    )
    func configurationChanges() throws {
        let (fixture, images, old) = try keeping()
        try replaceFile(fixture.storageFile, with: Array("[storage".utf8), mode: 0o600)
        #expect(throws: PodmanError.self) { _ = try images.uses(of: "r.example/app:1") }
        try images.update(force: true)
        #expect(try shows(old, fixture))
        try fixture.configure(graphRoot: fixture.graphRoot + "-new")
        try images.update(force: true)
        #expect(try shows(old, fixture), "the former one has the container still")
        try fixture.put("overlay-layers/layers.json", "[]")
        try fixture.put("overlay-containers/containers.json", "[]")
        try fixture.put(
            "overlay-containers/containers.json", #"[{"id":"1","image":"\#(old.hex)"}]"#, in: fixture.graphRoot + "-new"
        )
        try images.update(force: true)
        #expect(try shows(old, fixture), "the new one has one")
    }

    @Test(
        "images below imagestore, and containers below runroot, are podman's too",
        arguments: ["images-of-podman", "run"])
    func otherDirectories(_ name: String) throws {
        let (fixture, images, old) = try keeping()
        let directory = "\(fixture.path)/\(name)"
        try fixture.configure("imagestore = \"\(fixture.path)/images-of-podman\"")
        try fixture.put("overlay-layers/layers.json", "[]")
        try fixture.put("overlay-containers/containers.json", "[]")
        let file = name == "run" ? "overlay-containers/volatile-containers.json" : "overlay-images/images.json"
        try fixture.put(file, #"[{"id":"\#(old.hex)","image":"\#(old.hex)"}]"#, in: directory)
        try images.update(force: true)
        #expect(try shows(old, fixture))
        try fixture.put(file, "[]", in: directory)
        try images.update(force: true)
        #expect(try !shows(old, fixture))
    }

    @Test("processes that cannot be listed, and a table of mounts that cannot be read, are an error and not no mounts")
    func mountsUnreadable() throws {
        let fixture = try ImageStoreFixture()
        let proc = fixture.graphRoot
        #expect(throws: SystemError.self) { _ = try Mount.inAnyNamespace(proc: proc) { _ in true } }
        try createDirectories(proc + "/7/ns")
        #expect(symlink("mnt:[1]", proc + "/7/ns/mnt") == 0)
        // It has ended.
        #expect(try Mount.inAnyNamespace(proc: proc) { _ in true }.isEmpty)
        // EISDIR stands for EMFILE and the like.
        try createDirectories(proc + "/7/mountinfo")
        #expect(throws: SystemError.self) { _ = try Mount.inAnyNamespace(proc: proc) { _ in true } }
    }

    // MARK: Mounts

    @Test(
        "a mount upon a layer is seen by whatever path podman came to the directory",
        arguments: [
            "rw,lowerdir=/another/name/overlay/l/LINK,upperdir=/c/diff,workdir=/c/work",
            "rw,lowerdir=/a=b/overlay/l/AAAA:/a=b/overlay/l/LINK,upperdir=/c/diff", "rw,lowerdir=l/LINK:l/AAAA",
            "rw,lowerdir+=/x/overlay/l/LINK",
        ])
    func mountBySpelling(_ options: String) throws {
        let fixture = try ImageStoreFixture()
        try fixture.image("r.example/app:1", "app")
        let images = try fixture.imageStore()
        try images.update()
        let line = "40 30 0:40 / /run/merged rw - overlay overlay "
        let link = StorageNames.link(.of("app"))
        try fixture.process(
            7, namespace: 1, mountinfo: line + options.replacing("LINK", with: "\(link.dropLast())7Z") + "\n")
        #expect(try images.uses(of: "r.example/app:1").isEmpty)
        try fixture.process(8, namespace: 2, mountinfo: line + options.replacing("LINK", with: link) + "\n")
        let uses = try images.uses(of: "r.example/app:1")
        #expect(uses.map(\.kind) == [.mount] && uses.first?.name == "/run/merged")
    }

    @Test("one table is read for each mount namespace, but for a process that sees only a part of it")
    func tables() throws {
        let fixture = try ImageStoreFixture()
        let line = "40 30 0:40 / /run/merged rw - overlay overlay rw\n"
        try fixture.process(7, namespace: 1, mountinfo: line)
        try fixture.process(8, namespace: 1, mountinfo: line)
        // A table that cannot be read would be an error.
        let second = fixture.proc + "/8/mountinfo"
        #expect(unlink(second) == 0)
        try createDirectories(second)
        let found = { (kind: String) in try Mount.inAnyNamespace(proc: fixture.proc) { $0.type == kind } }
        #expect(try found("overlay").map { $0.user.process } == [7])
        #expect(try found("ext4").isEmpty)
        let root = fixture.proc + "/7/root"
        #expect(unlink(root) == 0 && symlink("/chroot", root) == 0)
        #expect(throws: SystemError.self) { _ = try found("ext4") }
        #expect(try found("overlay").count == 1)
    }

    // MARK: podman's locks

    /// A layer that podman unpacks: it has the lock of the image store's layers.
    private func unpacking(_ fixture: ImageStoreFixture) throws -> File {
        let file = try File(fixture.directory + "/overlay-layers/layers.lock", O_RDWR)
        #expect(try file.tryWriteLock())
        return file
    }

    @Test("where podman needs all that is there, its locks are not waited for, and what is new comes at once")
    func keptWithoutLock() throws {
        let (fixture, images, old) = try keeping()
        let lock = try unpacking(fixture)
        try fixture.image("r.example/more:1", "more")
        let begin = monotonicSeconds()
        try images.update(force: true, patience: 60)
        #expect(monotonicSeconds() - begin < 30)
        #expect(try shows(old, fixture) && images.absence(of: "r.example/more:1") == nil && images.imageCount == 3)
        withExtendedLifetime(lock) {}
    }

    @Test("while podman has its locks nothing goes; nobody waits for them but who has patience, and a stop ends that")
    func busy() throws {
        let (fixture, images, old) = try keeping()
        try fixture.put("overlay-layers/layers.json", "[]")
        try fixture.put("overlay-containers/containers.json", "[]")
        var lock: File? = try unpacking(fixture)
        let begin = monotonicSeconds()
        try images.update(force: true)
        try images.update(force: true, patience: 60) { true }
        #expect(monotonicSeconds() - begin < 30)
        #expect(try shows(old, fixture) && images.keepsMore && images.imageCount == 2)
        withExtendedLifetime(lock) {}
        lock = nil
        try images.update(force: true)
        #expect(try !shows(old, fixture) && !images.keepsMore)
    }

    // MARK: Without an image store

    @Test(
        "an image store that is wanted no more holds nothing, but what is mounted, and all while podman is told of it")
    func released() throws {
        let fixture = try ImageStoreFixture()
        let store = fixture.store
        try fixture.image("r.example/app:1", "base", "app")
        try fixture.image("r.example/other:1", "base", "other")
        let layers = StorageNames.layers([.of("base"), .of("app")])
        try fixture.imageStore().update()
        #expect(try store.index.podmanLayers().count == 3)
        func release() throws -> String? {
            try PodmanImageStore.release(store, storageFiles: [fixture.storageFile], proc: fixture.proc)
        }
        let stores = "[storage.options]\nadditionalimagestores = [\"\(fixture.directory)\"]"
        try fixture.configure(stores)
        #expect(try release()?.contains(fixture.storageFile) == true)
        #expect(try store.index.podmanLayers().count == 3)
        try replaceFile(fixture.storageFile, with: Array("[storage".utf8), mode: 0o600)
        #expect(throws: PodmanError.self) { _ = try release() }
        try fixture.configure()
        let options = "rw,lowerdir=\(fixture.directory)/overlay/l/\(StorageNames.link(layers[1])),upperdir=/u"
        try fixture.process(
            7, namespace: 1, mountinfo: "40 30 0:40 / /run/merged rw - overlay overlay \(options)\n")
        #expect(try release()?.contains("/run/merged") == true)
        #expect(Set(try store.index.podmanLayers().map(\.id)) == Set(layers))
        #expect(try store.index.podmanImages().isEmpty)
        try fixture.process(7, namespace: 1, mountinfo: "")
        #expect(try release() == nil)
        #expect(try store.index.podmanLayers().isEmpty)
    }
}
