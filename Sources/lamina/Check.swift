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

            Exit code 2 when it found damage, repaired or not.
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

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let readData, !(readData > 0 && readData <= 100) {
            throw ValidationError("--read-data must be above 0 and at most 100 percent, is \(readData)")
        }
        if let time, Self.seconds(time) == nil {
            throw ValidationError("--time must be a number of seconds, or as in 90s, 10m, 2h; is '\(time)'")
        }
    }

    func run() throws {
        try reporting(json: facts.json) {
            let command = CheckCommand(
                image: image, readPercent: readData, repairs: repair, seconds: time.flatMap(Self.seconds))
            let status = try command.run(common.context(json: facts.json))
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

    /// Gives `--read-data` without a percentage its value, as the parser knows no option that may go without.
    static func completed(_ arguments: [String]) -> [String] {
        arguments.map { $0 == "--read-data" ? "--read-data=100" : $0 }
    }
}
