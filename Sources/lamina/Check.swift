import ArgumentParser
import LaminaDaemon

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look for damage in the store, and repair it.",
        discussion: """
            Holds every file against the index: is it there, is it whole. With --read-data also the bytes against their \
            digests, of all or of so many percent, going on where the last check stopped. May run while images are mounted \
            and pulled. With --repair what is damaged is fetched again, and nothing else; a file that is open is put right \
            under its readers. An index that is damaged or gone is made anew from the files.

              lamina check                                 some seconds, reads no bytes
              lamina check --read-data=5 --time 10m        a part of the bytes, every night
              lamina check --read-data --repair registry.example.org/app:1

            With --containerd it compares instead what containerd knows of its snapshots with the index, the directories and \
            what is mounted. containerd is told to collect its garbage first.

              lamina check --containerd                    at \(SnapshotCheckCommand.defaultSocket)
              lamina check --containerd /run/k3s/containerd/containerd.sock --json

            Exit code 2 when it found damage, repaired or not, or a difference.
            """)

    @Argument(help: "Only the files of this image; the whole store without it.") var image: String?

    @Option(
        help: ArgumentHelp(
            "Read and hash the bytes: all, or with =PERCENT so much of them.", valueName: "percent"))
    var readData: Double?

    @Flag(help: "Put right what is damaged.")
    var repair = false

    @Option(help: ArgumentHelp("Stop after so long: seconds, or with a letter as in 90s, 10m, 2h.", valueName: "time"))
    var time: String?

    @Option(
        help: ArgumentHelp(
            "Compare with the snapshots of the containerd at this socket, \(SnapshotCheckCommand.defaultSocket) without one.",
            valueName: "socket"))
    var containerd: String?

    @Option(
        help: ArgumentHelp(
            "What containerd's configuration calls lamina; \(SnapshotCheckCommand.defaultSnapshotter) without it.",
            valueName: "name"))
    var snapshotter: String?

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let readData, !(readData > 0 && readData <= 100) {
            throw ValidationError("--read-data must be above 0 and at most 100 percent, is \(readData)")
        }
        if let time, Self.seconds(time) == nil {
            throw ValidationError("--time must be a number of seconds, or as in 90s, 10m, 2h; is '\(time)'")
        }
        if containerd != nil, image != nil || readData != nil || repair || time != nil {
            throw ValidationError(
                "--containerd only compares: neither IMAGE, --read-data, --repair nor --time go with it")
        }
        guard let snapshotter else { return }
        if containerd == nil { throw ValidationError("--snapshotter goes with --containerd") }
        // The form that containerd requires for names (its package identifiers).
        let isName = snapshotter.utf8.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte & 0xDF) || "-_.".utf8.contains(byte)
        }
        if !isName || snapshotter.isEmpty {
            throw ValidationError("--snapshotter is made of letters, digits, '-', '_' and '.'; is '\(snapshotter)'")
        }
    }

    func run() throws {
        try reporting(json: facts.json) {
            let context = try common.context(json: facts.json)
            let status =
                if let containerd {
                    try SnapshotCheckCommand(
                        socket: containerd, snapshotter: snapshotter ?? SnapshotCheckCommand.defaultSnapshotter
                    ).run(context)
                } else {
                    try CheckCommand(
                        image: image, readPercent: readData, repairs: repair, seconds: time.flatMap(Self.seconds)
                    ).run(context)
                }
            guard status == .success else { throw ExitCode(status.rawValue) }
        }
    }

    /// A span of time as people write it, in seconds.
    static func seconds(_ text: String) -> Double? {
        let units: [Character: Double] = ["s": 1, "m": 60, "h": 3600]
        let unit = text.last.flatMap { units[$0] }
        guard let value = Double(unit == nil ? text[...] : text.dropLast()), value > 0, value < 1e9 else { return nil }
        return value * (unit ?? 1)
    }

    /// Gives `--read-data` and `--containerd` their values if they have none, because the parser has no options with optional
    /// values.
    ///
    /// A socket is recognized by its path.
    static func completed(_ arguments: [String]) -> [String] {
        arguments.enumerated().map { position, word in
            switch word {
            case "--read-data": return "--read-data=100"
            case "--containerd":
                let next = position + 1 < arguments.count ? arguments[position + 1] : ""
                return next.hasPrefix("/") || next.hasPrefix(".")
                    ? word : "--containerd=" + SnapshotCheckCommand.defaultSocket
            default: return word
            }
        }
    }
}
