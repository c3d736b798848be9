import ArgumentParser
import LaminaDaemon

struct Config: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show or check the configuration.",
        discussion: """
            Settings are taken from /etc/lamina/config.toml, /etc/lamina/conf.d/*.toml, --config FILE, the environment \
            (LAMINA_FUSE_PASSTHROUGH=false) and the command line (--set fuse.passthrough=false); what comes later in \
            this list goes before what comes sooner.

              lamina config show --origin
              lamina config check --config new.toml
            """,
        subcommands: [ConfigShow.self, ConfigCheck.self])
}

struct ConfigShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show every key with the value that holds.",
        discussion: """
            What it prints is a configuration itself; headers of mirrors are left out of it, as they may be passwords.

              lamina config show
              lamina config show --origin --config new.toml
            """)

    @Flag(help: "Say of each value where it is from: a line of a file, the environment, an option, or the default.")
    var origin = false

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try ConfigShowCommand(origin: origin).run(common.loadConfiguration(), Output(json: facts.json))
        }
    }
}

struct ConfigCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check the configuration, and say what of it has no effect.",
        discussion: """
            Everything that is wrong is told, with its file and line; the exit code is 78 then, else 0.

              lamina config check
              lamina config check --config new.toml --json
            """)

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) {
            try ConfigCheckCommand().run(common.loadConfiguration(), Output(json: facts.json))
        }
    }
}
