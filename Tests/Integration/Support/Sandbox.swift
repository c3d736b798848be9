import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// A directory with a store, mount points and whatever a test makes, and everything that runs in it; all of it ends with the
/// test.
final class Sandbox {
    /// The prefix of this run's directories.
    static let prefix = "lamina-integration-\(getpid())-"

    let directory: String
    var root: String { directory + "/store" }
    /// Whether servers seal images. Most tests test what FUSE shows.
    var seals = false
    /// Settings for every `lamina`, by their variables.
    var settings: [String: String] = [:]
    private var children: [Child] = []
    private var ownProxy: CountingProxy?

    /// Runs a test in its own sandbox, and cleans up however it ends.
    static func with<Result>(_ body: (Sandbox) throws -> Result) throws -> Result {
        let sandbox = try Sandbox()
        defer { sandbox.close() }
        do {
            return try body(sandbox)
        } catch {
            sandbox.explain()
            throw error
        }
    }

    private init() throws {
        var template = Array("\(Requirements.directory)/\(Self.prefix)XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw SystemError.last("make a directory in", Requirements.directory) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// This test's registry, as far as it can tell: the shared one behind a proxy that counts.
    func proxy() throws -> CountingProxy {
        if let ownProxy { return ownProxy }
        let proxy = try CountingProxy(upstream: Shared.registry.get().port)
        ownProxy = proxy
        return proxy
    }

    // MARK: Commands

    /// Starts `lamina` with this sandbox's store.
    func start(_ arguments: [String]) throws -> Child {
        let child = try Child(
            [Requirements.lamina] + arguments + ["--root", root],
            environment: settings.merging(seals ? ["LAMINA_SEAL_MODE": "auto"] : [:]) { $1 })
        children.append(child)
        return child
    }

    /// Starts any program, which ends with the sandbox at the latest.
    func startProgram(_ arguments: [String]) throws -> Child {
        let child = try Child(arguments)
        children.append(child)
        return child
    }

    /// Runs `lamina` to its end, successful or not.
    func attempt(_ arguments: String..., seconds: Double = 120) throws -> Outcome {
        try start(arguments).wait(seconds: seconds)
    }

    /// Runs `lamina`, which must succeed.
    @discardableResult
    func lamina(_ arguments: String..., seconds: Double = 120) throws -> Outcome {
        try start(arguments).wait(seconds: seconds).orThrow()
    }

    /// Starts `lamina serve`, and waits until it answers.
    func serve() throws -> Child {
        let server = try start(["serve"])
        let isReady = try eventually(seconds: 20) {
            guard server.isRunning else { return true }
            return try access(root + "/control.sock", F_OK) == 0 && status().server?.pid == server.pid
        }
        guard isReady, server.isRunning else {
            server.send(SIGKILL)
            throw Outcome.Failed(description: "lamina serve is not ready\n\(server.wait())")
        }
        return server
    }

    /// Starts `lamina serve --supervise`, and waits until a server answers.
    func supervise(_ options: String..., program: String? = nil) throws -> Supervised {
        let words = ["serve", "--supervise"] + options
        let child = program == nil ? try start(words) : try startProgram([program!] + words + ["--root", root])
        let supervised = Supervised(child: child, sandbox: self)
        guard try eventually(seconds: 20, { try !child.isRunning || supervised.isReady() }), child.isRunning else {
            child.send(SIGKILL)
            throw Outcome.Failed(description: "lamina serve --supervise is not ready\n\(child.wait())")
        }
        return supervised
    }

    /// Makes a directory to mount at.
    func mountPoint(_ name: String = "mnt") throws -> String {
        let path = "\(directory)/\(name)"
        try createDirectories(path)
        return path
    }

    /// Mounts an image at a new directory.
    func mount(_ reference: String, at name: String = "mnt") throws -> String {
        let path = try mountPoint(name)
        try lamina("mount", reference, path)
        return path
    }

    // MARK: Facts

    func status() throws -> StatusReport { try StatusReport(json: lamina("status", "--json").output) }

    /// The server's counters.
    func opens() throws -> StatusReport.Opens {
        guard let server = try status().server else { throw Outcome.Failed(description: "no server runs for \(root)") }
        return server.opens
    }

    /// The rows from Debian's sqlite3, columns separated by `|`.
    func sql(_ query: String) throws -> [String] {
        try run(["sqlite3", "-readonly", "-cmd", ".timeout 5000", root + "/index.db", query]).orThrow()
            .output.split(separator: "\n").map(String.init)
    }

    /// The one value from sqlite3.
    func number(_ query: String) throws -> Int64 { try sql(query).first.flatMap { Int64($0) } ?? -1 }

    /// The backing files, by path.
    func backingFiles() -> [String] {
        names(in: root + "/content").flatMap { part in
            names(in: "\(root)/content/\(part)").map { "\(root)/content/\(part)/\($0)" }
        }
    }

    /// The mounts in this sandbox.
    func mounts() throws -> [Mount] { try Mount.all().filter { $0.directory.hasPrefix(directory + "/") } }

    // MARK: The end

    /// What a failed test should leave for debugging.
    private func explain() {
        if let log = try? readFile(root + "/server.log") {
            print("server.log:\n" + String(decoding: log, as: UTF8.self).suffix(4000))
        }
        for child in children where child.command.contains(" serve") {
            print("lamina serve:\n\(child.errorsSoFar.suffix(4000))")
        }
    }

    private func close() {
        // Clients that wait for the registry are released.
        ownProxy?.stop()
        unmountAll()
        // Again until none is left: a supervisor may have started another server before it is killed itself.
        let areGone = eventually {
            let left = Set(processes(withArgumentContaining: directory) + children.filter(\.isRunning).map(\.pid))
            for pid in left { kill(pid, SIGKILL) }
            return left.isEmpty
        }
        for child in children { child.wait(seconds: 10) }
        if !areGone {
            Issue.record("processes of \(directory) do not end")
        }
        unmountAll()
        if let mounts = try? mounts(), !mounts.isEmpty {
            Issue.record("mounts are left: \(mounts.map(\.directory))")
            return
        }
        // Names may not be UTF-8; rm handles that.
        if (try? run(["rm", "-rf", "--one-file-system", directory]))?.exitCode != 0 {
            Issue.record("\(directory) cannot be removed")
        }
    }

    private func unmountAll() {
        for mount in (try? mounts())?.reversed() ?? [] { try? Mount.unmount(mount.directory, detach: true) }
    }
}
