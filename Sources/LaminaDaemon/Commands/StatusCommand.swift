import Glibc
import LaminaFilesystem
public import LaminaStore
import LaminaSystem
import Logging

/// Everything that `lamina status` shows.
public struct StatusReport: Sendable, Codable, Equatable {
    public var root: String
    /// nil if no server runs.
    public var server: ServerStatus?
    public var usage: CacheUsage
    public var images: [ImageStatus]
    /// What is being merged, largest first.
    public var merging: [MergeProgress]
    public var mounts: [MountStatus]
    /// What containerd has here.
    public var containerd: SnapshotSummary
    /// The part of the store's files that stays because mounted sealed images show it.
    public var sealedBytes: Int64
    /// `[store] max_bytes`, if it cannot be kept because of sealed mounts.
    public var limitExceeded: Int64?
    /// The layers that nothing is served of, and why.
    public var quarantine: [QuarantineReport]
}

/// A layer that was found to be another one than was said.
public struct QuarantineReport: Sendable, Codable, Equatable {
    public var layer: String
    public var reason: String
}

extension StatusReport {
    /// - Parameter maxBytes: `[store] max_bytes`.
    init(of index: Index, root: String, server: ServerStatus?, maxBytes: Int64) throws {
        self.root = root
        self.server = server
        usage = try index.cacheUsage()
        images = try index.imageStatus()
        merging = try index.mergeProgress()
        mounts = try index.mountStatus()
        containerd = try index.snapshotSummary(limit: 20)
        sealedBytes = try index.sealedBytes()
        limitExceeded = maxBytes > 0 && sealedBytes > maxBytes ? maxBytes : nil
        quarantine = try index.quarantine().map {
            QuarantineReport(layer: $0.digest.description, reason: $0.reason)
        }
    }
}

/// `lamina status`: the server, the store, and what is on its way.
public struct StatusCommand: Sendable {
    public var watch: Bool

    public init(watch: Bool) { self.watch = watch }

    public func run(_ context: CommandContext) throws {
        guard watch else {
            let report = try Self.report(context)
            return try context.output.show(report) { Self.text(report) }
        }
        Interrupts.install()
        while !Interrupts.requested {
            let report = try Self.report(context)
            if context.output.json {
                print(String(decoding: try JSONText.line(report), as: UTF8.self))
            } else if context.output.isTerminal {
                // Home, the text with the rest of each line cleared, then what is below cleared: this does not flicker.
                let text = Self.text(report).replacing("\n", with: "\u{1B}[K\n")
                print("\u{1B}[H\(text)\u{1B}[K\n\u{1B}[J", terminator: "")
            } else {
                print(Self.text(report) + "\n")
            }
            // The output is not read any more, or there is no room for it: then watching ends.
            try StandardOutput.flush()
            for _ in 0..<10 where !Interrupts.requested { usleep(100_000) }
        }
    }

    static func report(_ context: CommandContext) throws -> StatusReport {
        let index: Index
        switch try StoreView.open(context) {
        case .server(let client): return try client.viewedStatus()
        case .index(let opened): index = opened
        }
        var server: ServerStatus?
        do {
            server = try ControlClient(root: context.root).status()
        } catch let error as DaemonError where error.code == .noServer || error.code == .permission {
            // The index has the rest without it.
            context.log.debug("no answer from a server", metadata: ["error": "\(error)"])
        }
        return try StatusReport(
            of: index, root: context.root, server: server, maxBytes: context.configuration.store.maxBytes)
    }

    /// How many of the contents on their way are listed.
    private static let mergingLimit = 10

    static func text(_ report: StatusReport) -> String {
        var blocks = [TextTable([], facts(report)).text]
        if !report.images.isEmpty { blocks.append(ListCommand.table(report.images)) }
        if !report.merging.isEmpty {
            let more = report.merging.count - mergingLimit
            blocks.append(
                TextTable(
                    ["MERGING", "SIZE", "DONE", "CHUNKS"], rightAligned: [1, 2, 3],
                    report.merging.prefix(mergingLimit).map {
                        [
                            String($0.digest.prefix(19)), Units.bytes($0.bytes), "\($0.percent)%",
                            "\($0.landedChunks)/\($0.chunks)",
                        ]
                    }
                ).text + (more > 0 ? "\nand \(more) more" : ""))
        }
        if let streams = report.server?.streams, !streams.isEmpty {
            blocks.append(
                TextTable(
                    ["STREAMING", "SIZE", "DONE", "FROM"], rightAligned: [1, 2],
                    streams.map {
                        [
                            String($0.layer.description.prefix(19)), Units.bytes($0.size),
                            "\(100 * $0.placed / max($0.size, 1))%", $0.location,
                        ]
                    }
                ).text)
        }
        if !report.mounts.isEmpty {
            blocks.append(
                TextTable(
                    ["MOUNTED AT", "IMAGE", "WAY", "WRITES TO", "SINCE"],
                    report.mounts.map { [$0.target, $0.reference, $0.way, $0.writable ?? "-", $0.mountedAt] }
                ).text)
        }
        if !report.containerd.refusals.isEmpty {
            blocks.append(
                TextTable(
                    ["NOT LAZY", "WHY", "SINCE"], report.containerd.refusals.map { [$0.name, $0.reason, $0.createdAt] }
                ).text)
        }
        return blocks.joined(separator: "\n\n")
    }

    private static func facts(_ report: StatusReport) -> [[String]] {
        let usage = report.usage
        var facts = [["store", report.root]]
        if let server = report.server {
            let opens = server.opens
            facts += [
                ["server", "lamina \(server.version), process \(server.pid), since \(server.startedAt)"],
                ["passthrough", server.passthrough ? "on" : "off: \(server.passthroughReason ?? "no reason given")"],
                [
                    "opens",
                    "\(opens.passthrough) passthrough, \(opens.cached) cached; \(opens.waited) waited for a merge",
                ],
                [
                    "requests",
                    "\(opens.reads) reads (\(Units.bytes(Int64(clamping: opens.readBytes)))), \(opens.lookups) lookups",
                ],
                ["backing files", "\(opens.backingFiles) registered"],
                [
                    "network",
                    "\(Units.bytes(Int64(clamping: server.fetchedBytes))) fetched, \(Units.bytes(server.inFlightBytes)) in flight",
                ],
            ]
        } else {
            facts.append(["server", "none runs; 'lamina mount' starts one"])
        }
        facts += [
            ["images", "\(usage.images), of \(counted(Int(usage.layers), "layer"))"],
            ["contents", "\(usage.mergedContents) of \(usage.contents) merged"],
            [
                "bytes",
                "\(Units.bytes(usage.logicalBytes)) in files, \(Units.bytes(usage.allocatedBytes)) on disk, "
                    + "\(Units.bytes(usage.sharedBytes)) saved by sharing",
            ],
        ]
        if let seal = report.server?.seal {
            facts.append([
                "sealing",
                seal.on
                    ? "on: \(counted(seal.chains, "image")), \(seal.mounts) mounted"
                        + (seal.refused > 0 ? ", \(seal.refused) cannot be sealed" : "")
                    : "off: \(seal.reason ?? "no reason given")",
            ])
        }
        if let podman = report.server?.podman {
            facts.append([
                "podman",
                podman.problem ?? "\(counted(podman.images, "image")) in \(podman.directory)",
            ])
            for (reference, reason) in podman.absent.sorted(by: { $0.key < $1.key }) {
                facts.append(["not for podman", "\(reference): \(reason)"])
            }
        }
        if report.server != nil, !report.mounts.isEmpty, report.mounts.allSatisfy({ $0.way == "sealed" }) {
            facts.append(["server needed", "no: every mount is sealed, and reads on without it"])
        }
        if let limit = report.limitExceeded {
            facts.append([
                "limit",
                "[store] max_bytes is \(Units.bytes(limit)), and sealed images that are mounted need \(Units.bytes(report.sealedBytes)): "
                    + "it cannot be kept until some of them are unmounted",
            ])
        }
        for found in report.quarantine {
            facts.append(["quarantine", "\(found.layer): \(found.reason); nothing of it is served"])
        }
        if report.containerd.snapshots > 0 {
            let snapshots = report.containerd
            facts.append([
                "containerd",
                "\(counted(Int(snapshots.snapshots), "snapshot")): \(snapshots.lazyLayers) lazy layers, "
                    + "\(snapshots.unpackedLayers) unpacked ones",
            ])
        }
        return facts
    }
}
