import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

/// Debian's podman in a sandbox: graph root, configuration and home of its own; with lamina's image store, or without.
struct Podman {
    static var isInstalled: ConditionTrait {
        Requirements.tools("podman", "conmon", "runc")
    }

    let sandbox: Sandbox
    let directory: String
    /// podman and its helpers; nil: this machine's.
    let programs: String?
    var graphRoot: String { directory + "/graph" }

    /// - Parameters:
    ///   - name: of its directory: two podmans have nothing in common but the image store.
    ///   - images: of an additional image store.
    init(in sandbox: Sandbox, _ name: String = "podman", images: String? = nil, programs: String? = nil) throws {
        self.sandbox = sandbox
        self.programs = programs
        directory = sandbox.directory + "/" + name
        try createDirectories(directory + "/home/.config/containers")
        let host = try Shared.registry.get().host
        let helpers =
            programs.map { "conmon_path = [\"\($0)/conmon\"]\nhelper_binaries_dir = [\"\($0)\"]\n" } ?? ""
        for (file, text) in [
            ("home/.config/containers/policy.json", #"{"default":[{"type":"insecureAcceptAnything"}]}"#),
            (
                "registries.conf",
                "unqualified-search-registries = []\n[[registry]]\nlocation = \"\(host)\"\ninsecure = true\n"
            ),
            (
                "containers.conf",
                """
                [containers]
                pids_limit = 0
                default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
                [engine]
                cgroup_manager = "cgroupfs"
                events_logger = "file"
                tmp_dir = "\(directory)/libpod"
                runtime = "runc"
                \(helpers)
                """
            ),
            (
                "storage.conf",
                """
                [storage]
                driver = "overlay"
                graphroot = "\(directory)/graph"
                runroot = "\(directory)/run"
                [storage.options]
                \(images.map { "additionalimagestores = [\"\($0)\"]" } ?? "")
                [storage.options.overlay]
                mountopt = "nodev"

                """
            ),
        ] { try write(text.utf8, to: "\(directory)/\(file)") }
    }

    private var environment: [String: String] {
        [
            "HOME": directory + "/home", "CONTAINERS_CONF": directory + "/containers.conf",
            "CONTAINERS_REGISTRIES_CONF": directory + "/registries.conf",
            "CONTAINERS_STORAGE_CONF": directory + "/storage.conf", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        ]
    }

    func start(_ words: [String]) throws -> Child {
        let runtime = programs.map { ["--runtime", "\($0)/runc"] } ?? []
        return try Child([programs.map { "\($0)/podman" } ?? "podman"] + runtime + words, environment: environment)
    }

    func attempt(_ words: String..., seconds: Double = 120) throws -> Outcome {
        try start(words).wait(seconds: seconds)
    }

    @discardableResult
    func callAsFunction(_ words: String..., seconds: Double = 120) throws -> String {
        try start(words).wait(seconds: seconds).orThrow().output
    }

    /// Runs a program in a new container of an image that is here.
    @discardableResult
    func run(_ image: String, _ words: String...) throws -> String {
        try start(Self.runWords + [image] + words).wait().orThrow().output
    }

    static let runWords = ["run", "--rm", "--pull", "never", "--network", "host"]

    /// The ids of the layers in the graph root.
    var ownLayers: [String] { names(in: graphRoot + "/overlay").filter { $0.count == 64 } }

    /// Takes away everything that it has, containers first.
    func close() {
        _ = try? attempt("rm", "-a", "-f", "-t", "0")
        _ = try? attempt("rmi", "-a", "-f")
        for mount in ((try? Mount.all()) ?? []).reversed() where mount.directory.hasPrefix(directory + "/") {
            try? Mount.unmount(mount.directory, detach: true)
        }
    }
}
