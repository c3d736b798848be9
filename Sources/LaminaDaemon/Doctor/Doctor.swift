import Glibc
import LaminaSeal
import LaminaSystem

/// `lamina doctor`: examines every condition that lamina depends on, and gives the way out if one is not met.
public struct Doctor: Sendable {
    public struct Report: Sendable, Codable, Equatable {
        public var root: String
        /// Whether lamina can work at all.
        public var works: Bool
        /// Whether the kernel itself reads merged files.
        public var passthrough: Bool
        public var findings: [Finding]
    }

    private let root: String

    public init(root: String) { self.root = root }

    /// Examines everything; takes some milliseconds, most of them for the scratch mount.
    public func examine() -> Report {
        let kernel = KernelVersion.current
        let capability = Capability.hasSystemAdministration
        var findings = [
            Self.kernel(kernel), Self.passthroughOption(kernel), Self.device(), Self.capability(capability),
            rootFilesystem(),
        ]
        findings.append(freeSpace())
        findings.append(Self.libfuse(VersionCommand.loadedVersion("fuse_pkgversion")))
        findings.append(Self.fileLimit())
        let attempt = PassthroughTrial(directory: existing)
        let trial = Self.trial(capability ? attempt.run() : nil)
        findings.append(trial)
        findings.append(Self.resend(attempt.canResend))
        findings.append(Self.sealing(capability ? SealTrial.run(in: existing + "/.lamina-seal-\(getpid())") : nil))
        return Report(
            root: root, works: !findings.contains { $0.state == .fail }, passthrough: trial.state == .ok,
            findings: findings)
    }

    /// The store's directory, or the nearest one above it that exists.
    private var existing: String {
        var path = root
        while access(path, F_OK) != 0, path != "/" {
            path = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
            if path.isEmpty { path = "/" }
        }
        return path
    }

    static func kernel(_ version: KernelVersion?) -> Finding {
        guard let version else { return Finding("kernel", .unknown, "the kernel does not say its version") }
        guard version.isAtLeast(6, 9) else {
            return Finding(
                "kernel", .warn, "Linux \(version)",
                advice: "passthrough came with 6.9; until then the server answers every read, which is slower")
        }
        return Finding("kernel", .ok, "Linux \(version)")
    }

    private static func passthroughOption(_ version: KernelVersion?) -> Finding {
        guard let version, let found = KernelConfiguration.read(release: version.description) else {
            return passthroughOption(nil, path: "")
        }
        return passthroughOption(
            KernelConfiguration.setting(of: "CONFIG_FUSE_PASSTHROUGH", in: found.text), path: found.path)
    }

    static func passthroughOption(_ setting: KernelConfiguration.Setting?, path: String) -> Finding {
        let name = "CONFIG_FUSE_PASSTHROUGH"
        return switch setting {
        case nil:
            Finding(
                name, .unknown, "neither /proc/config.gz nor /boot/config-… is there",
                advice: "the trial below shows what the kernel can do")
        case .builtIn, .module: Finding(name, .ok, "set (\(path))")
        case .off:
            Finding(
                name, .warn, "not set (\(path))",
                advice: "take a kernel that is built with it; until then the server answers every read")
        }
    }

    private static func device() -> Finding {
        do throws(SystemError) {
            _ = try File("/dev/fuse", O_RDWR)
            return Finding("/dev/fuse", .ok, "can be opened")
        } catch {
            let advice =
                error.code == ENOENT
                ? "load the module with 'modprobe fuse'; in a container add '--device /dev/fuse'"
                : error.code == ENODEV ? "load the module with 'modprobe fuse'" : "run lamina as root"
            return Finding("/dev/fuse", .fail, "cannot be opened: \(SystemError.text(of: error.code))", advice: advice)
        }
    }

    static func capability(_ has: Bool) -> Finding {
        has
            ? Finding("CAP_SYS_ADMIN", .ok, "there")
            : Finding(
                "CAP_SYS_ADMIN", .fail, "missing",
                advice: "run lamina as root; in a container add '--cap-add SYS_ADMIN'")
    }

    private func rootFilesystem() -> Finding {
        do {
            return Self.filesystem(try FilesystemFacts(ofDirectory: existing), at: existing)
        } catch {
            return Finding("store", .fail, "\(error)", advice: "choose another directory with --root or [store] root")
        }
    }

    static func filesystem(_ facts: FilesystemFacts, at path: String) -> Finding {
        let reflink =
            switch facts.sharesBlocks {
            case true?: ", files can share blocks"
            case false?: ", no sharing of blocks"
            case nil: ""
            }
        let found = "\(path) is on \(facts.typeName)\(reflink)"
        guard !facts.isStacked else {
            return Finding(
                "store", .warn, found + ", which is stacked on another file system",
                advice:
                    "passthrough needs a store on a disk's own file system (ext4, XFS, btrfs): choose one with --root")
        }
        return Finding("store", .ok, found)
    }

    private func freeSpace() -> Finding {
        guard let facts = try? FilesystemFacts(ofDirectory: existing) else {
            return Finding("free space", .unknown, "cannot be found out")
        }
        return Self.freeSpace(facts)
    }

    /// Below this size an ordinary image does not fit.
    private static let littleSpace: Int64 = 1 << 30
    private static let fewInodes: Int64 = 50_000

    static func freeSpace(_ facts: FilesystemFacts) -> Finding {
        let found = Units.bytes(facts.freeBytes) + (facts.freeInodes.map { ", \($0) inodes" } ?? "")
        guard facts.freeBytes >= littleSpace, facts.freeInodes ?? .max >= fewInodes else {
            return Finding("free space", .warn, found, advice: "make room, or choose another directory with --root")
        }
        return Finding("free space", .ok, found)
    }

    static func libfuse(_ version: String) -> Finding {
        guard let parsed = KernelVersion(parsing: version) else {
            return Finding("libfuse", .unknown, "it does not say its version")
        }
        // Before 3.17 libfuse does not know passthrough; lamina then negotiates it with the kernel itself.
        return parsed.isAtLeast(3, 14)
            ? Finding("libfuse", .ok, version)
            : Finding("libfuse", .warn, version, advice: "lamina is tested with 3.14 and newer")
    }

    private static func fileLimit() -> Finding {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
            return Finding("open files", .unknown, "the limit cannot be read")
        }
        return fileLimit(soft: UInt64(limit.rlim_cur), hard: UInt64(limit.rlim_max))
    }

    /// Each file that is open in passthrough mode takes a descriptor, and so do connections and workers.
    static func fileLimit(soft: UInt64, hard: UInt64) -> Finding {
        let found = "\(soft) (at most \(hard))"
        return hard >= 4096
            ? Finding("open files", .ok, found)
            : Finding(
                "open files", .warn, found,
                advice: "raise the limit: 'ulimit -Hn 65536', or LimitNOFILE=65536 in the unit")
    }

    /// The next server answers what a killed server leaves unanswered, if the kernel sends it again.
    static func resend(_ canResend: Bool?) -> Finding {
        let name = "restarts"
        return switch canResend {
        case nil: Finding(name, .unknown, "not tried, as no mount could be made")
        case true?: Finding(name, .ok, "the kernel sends again what a dead server left unanswered")
        case false?:
            Finding(
                name, .warn, "the kernel sends nothing again",
                advice: "open files survive a restart of the server, but calls that wait for it at that moment fail "
                    + "(Linux 6.9 mends that)")
        }
    }

    /// Whether the kernel alone can mount images that have landed completely.
    static func sealing(_ outcome: SealTrial.Outcome?) -> Finding {
        let name = "sealed images"
        return switch outcome {
        case nil: Finding(name, .unknown, "not tried, for want of CAP_SYS_ADMIN")
        case .works(let way)?:
            Finding(
                name, .ok,
                "tried with one of one file: EROFS \(way.backing == .file ? "reads the image itself" : "by way of a loop device")"
                    + ", overlayfs has the bytes")
        case .fails(let reason)?:
            Finding(
                name, .warn, "tried, does not work: \(reason)",
                advice:
                    "lamina works without them: all mounts go by way of FUSE. They take EROFS, and Linux 6.8 or newer")
        }
    }

    static func trial(_ outcome: PassthroughTrial.Outcome?) -> Finding {
        let name = "passthrough"
        return switch outcome {
        case nil: Finding(name, .unknown, "not tried, for want of CAP_SYS_ADMIN")
        case .works?: Finding(name, .ok, "tried on a scratch mount: the kernel reads merged files itself")
        case .withoutPassthrough(let reason)?:
            Finding(
                name, .warn, "tried on a scratch mount, does not work: \(reason)",
                advice: "lamina works without it, and answers every read itself")
        case .fails(let reason)?:
            Finding(
                name, .fail, "no FUSE mount can be made: \(reason)",
                advice: "see what is said of /dev/fuse and CAP_SYS_ADMIN")
        }
    }
}
