import Glibc
import LaminaSystem
import Testing

/// What these tests need of the machine. If something is missing, they say what.
enum Requirements {
    static let missing: String? = {
        if geteuid() != 0 { return "mount(2) needs root" }
        if access("/dev/fuse", R_OK | W_OK) != 0 { return "/dev/fuse cannot be opened" }
        for (program, package) in [
            ("docker-registry", "docker-registry"), ("python3", "python3"), ("sqlite3", "sqlite3"),
            ("fallocate", "util-linux"), ("umount", "mount"),
        ] where !isInstalled(program) {
            return "\(program) is missing (apt install \(package))"
        }
        if access(lamina, X_OK) != 0 {
            return "the executable \(lamina) is missing (swift build, or set LAMINA_BINARY)"
        }
        return nil
    }()

    static var machine: ConditionTrait { .enabled(if: missing == nil, "\(missing ?? "")") }

    /// Passthrough came with Linux 6.9, and does not work with a store on a stacked file system.
    static let missingForPassthrough: String? = {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        if numbers.lexicographicallyPrecedes([6, 9]) { return "FUSE passthrough needs Linux 6.9, this is \(release)" }
        return nil
    }()

    static var passthrough: ConditionTrait {
        .enabled(if: missingForPassthrough == nil, "\(missingForPassthrough ?? "")")
    }

    /// The program under test: LAMINA_BINARY, else the one that was built beside these tests.
    static let lamina: String = {
        if let path = getenv("LAMINA_BINARY") { return String(cString: path) }
        let bundle = realpath("/proc/self/exe", nil).map { path in
            defer { free(path) }
            return String(cString: path)
        }
        let parent = bundle.map { $0.split(separator: "/", omittingEmptySubsequences: false).dropLast() } ?? []
        let beside = parent.joined(separator: "/") + "/lamina"
        if access(beside, X_OK) == 0 { return beside }
        // …/Tests/Integration/Support/Requirements.swift
        let package = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(4)
        return package.joined(separator: "/") + "/.build/debug/lamina"
    }()

    /// Where stores are made: on a disk, because holes, sharing and what the kernel reads itself depend on the disk.
    static let directory: String = {
        let wanted = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        let stacked = ["tmpfs", "overlay", "ramfs"]
        let mounts = (try? Mount.all()) ?? []
        func isOnDisk(_ path: String) -> Bool {
            let holding = mounts.filter {
                path == $0.directory || path.hasPrefix($0.directory == "/" ? "/" : $0.directory + "/")
            }
            return holding.max { $0.directory.utf8.count < $1.directory.utf8.count }.map { !stacked.contains($0.type) }
                ?? false
        }
        return [wanted, "/tmp", "/var/tmp"].first(where: isOnDisk) ?? wanted
    }()

    /// Needs these programs, each with its package if that has another name (`bgzip:tabix`); a skipped test says which is
    /// missing.
    static func tools(_ programs: String...) -> ConditionTrait {
        let missing = programs.map { $0.split(separator: ":").map(String.init) }.first { !isInstalled($0[0]) }
        let reason = missing.map { "\($0[0]) is missing (apt install \($0.last ?? $0[0]))" }
        return .enabled(if: missing == nil, "\(reason ?? "")")
    }

    /// Needs a module of Debian's Python.
    static func pythonModule(_ name: String) -> ConditionTrait {
        let isThere = (try? run(["/usr/bin/python3", "-c", "import \(name)"]).exitCode) == 0
        let package = "python3-" + name.map { $0 == "_" ? "-" : $0 }
        return .enabled(if: isThere, "Debian's Python has no \(name) (apt install \(package))")
    }

    private static func isInstalled(_ program: String) -> Bool {
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        let places = path.split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin"]
        return places.contains { place in access("\(place)/\(program)", X_OK) == 0 }
    }
}

/// All of them, one test after another: they count bytes and measure time and memory.
@Suite("lamina, end to end", .serialized, Requirements.machine)
struct EndToEnd {}
