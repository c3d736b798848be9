import ArgumentParser
import LaminaDaemon

/// The options that every command takes.
struct CommonOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The directory of the store; else LAMINA_ROOT, else [store] root, else \(Configuration.defaultRoot).",
            valueName: "dir"))
    var root: String?

    @Option(
        name: [.long, .customLong("config", withSingleDash: true)],
        help: ArgumentHelp(
            "A configuration that goes before \(Configuration.defaultDirectory)/config.toml and conf.d/*.toml there.",
            valueName: "file"))
    var config: String?

    @Option(
        name: .customLong("set"),
        help: ArgumentHelp(
            "Set a key of the configuration, as log.level=debug; goes before files and environment. Can be repeated.",
            valueName: "key=value"))
    var settings: [String] = []

    @Flag(help: "Say in detail what is done, on standard error.")
    var verbose = false

    func context(json: Bool = false, serving: Bool = false) throws -> CommandContext {
        try CommandContext.make(
            root: root, configuration: config, settings: settings, verbose: verbose, json: json, serving: serving)
    }

    /// Only the configuration, for commands that show it.
    func loadConfiguration() throws -> LoadedConfiguration { try LoadedConfiguration.load(places) }

    /// Where the configuration is.
    var places: LoadedConfiguration.Places { .ofProcess(file: config, settings: settings, root: root) }
}

/// For commands that print facts.
struct FactOptions: ParsableArguments {
    @Flag(help: "Print JSON: sizes in bytes, times as RFC 3339.")
    var json = false
}

/// For commands that look at one of the store's images of a reference.
struct PlatformOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Which image, where the store has several of this name: os/architecture[/variant]. This machine's without it.",
            valueName: "platform"))
    var platform: String?
}

/// For commands that fetch images.
struct ImageOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Which image of an index: os/architecture[/variant]. This machine's without it.", valueName: "platform"))
    var platform: String?

    @Flag(
        name: .customLong("plain-http"),
        help: "Speak HTTP without TLS to the registry; for localhost that is so anyway.")
    var plainHTTP = false

    @Option(
        name: .customLong("creds-file"),
        help: ArgumentHelp(
            "Credentials in the format of docker's config.json; docker's own file is looked through after it.",
            valueName: "file"))
    var credentialsFile: String?
}
