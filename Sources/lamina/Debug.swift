import ArgumentParser
import LaminaDaemon

struct Debug: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Gather what helps to find out what is wrong.",
        discussion: """
              lamina debug bundle
              lamina debug bundle --output /tmp/bundle.json
            """,
        subcommands: [DebugBundle.self])
}

struct DebugBundle: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bundle", abstract: "Write versions, configuration, findings and views to one file of JSON.",
        discussion: """
            No secret gets in: no credentials, no headers of mirrors, no values of the environment but the keys of the \
            configuration; and what looks like a password in a text is taken out. Names of images and the paths of mounts are in it. \
            A configuration that is wrong, and an index that cannot be read, are told in it.

              sudo lamina debug bundle
              lamina debug bundle --output - --root /srv/lamina
            """)

    @Option(
        help: ArgumentHelp(
            "Where to write, - for standard output; lamina-debug-TIME.json in this directory without it.",
            valueName: "file"))
    var output: String?

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try DebugBundleCommand(output: output).run(common.places, Output(json: facts.json))
        }
    }
}
