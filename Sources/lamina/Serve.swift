import ArgumentParser
import LaminaDaemon

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run the server of a store in the foreground.",
        discussion: """
            Answers the file system's requests and, at control.sock in the store, the other commands. Under systemd, and \
            with --supervise, the mounts outlive it: files stay open, and calls that need it wait for the next server. \
            Then SIGTERM leaves them to that one; otherwise, and at Ctrl-C, they end with it. What has arrived is kept.

            --supervise runs the server as a child and starts another whenever it ends. SIGTERM or Ctrl-C to the \
            supervisor ends both, and the mounts; SIGUSR2 has the program that is on disk now take over.

              lamina serve --supervise --root /srv/lamina
              lamina serve --config /etc/lamina/test.toml --verbose

            With --address it is a snapshotter for containerd: a proxy plugin at that socket.

              lamina serve --supervise --root /var/lib/lamina --address /run/lamina/lamina.sock
            """)

    @Flag(help: "Hold the mounts, and restart the server when it ends or hangs.")
    var supervise = false

    @Flag(help: "End the mounts at SIGTERM, even where they could be left to the next server.")
    var unmountOnExit = false

    @Option(
        help: ArgumentHelp(
            "With --supervise: seconds without a sign of life after which the server is killed.",
            valueName: "seconds", visibility: .hidden))
    var watchdogSeconds = 30.0

    @Option(help: ArgumentHelp("With --supervise: start this as the server.", valueName: "path", visibility: .hidden))
    var program: String?

    @Flag(help: ArgumentHelp("Say whether this program could go on with the store, and end.", visibility: .hidden))
    var checkTakeover = false

    @Option(
        help: ArgumentHelp(
            "Answer containerd at this socket; else at [snapshotter] address, else nowhere.", valueName: "socket"))
    var address: String?

    @Option(
        help: ArgumentHelp(
            "How much is logged: \(LogLevel.names.joined(separator: ", ")); else [log] level.", valueName: "level"))
    var logLevel: String?

    @Flag(help: "End after the last umount.")
    var exitWhenIdle = false

    @Option(
        help: ArgumentHelp(
            "Write to this descriptor when ready, or why not.", valueName: "number", visibility: .hidden))
    var readyFd: Int32?

    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let readyFd, readyFd < 0 { throw ValidationError("--ready-fd must not be negative") }
        if !(0.1...86_400).contains(watchdogSeconds) {
            throw ValidationError("--watchdog-seconds must be 0.1 to 86400, is \(watchdogSeconds)")
        }
        if let logLevel, LogLevel.parse(logLevel) == nil {
            let names = LogLevel.names.joined(separator: ", ")
            throw ValidationError("--log-level must be one of \(names), is '\(logLevel)'")
        }
    }

    func run() throws {
        try reporting {
            var context = try common.context(serving: true)
            if let level = logLevel.flatMap(LogLevel.parse) { context.setLogLevel(level) }
            if checkTakeover { return try TakeoverCheck.run(root: context.root) }
            if supervise {
                let command = SuperviseCommand(
                    readyDescriptor: readyFd, watchdogSeconds: watchdogSeconds, program: program)
                throw ExitCode(try command.run(CommandLine.arguments, context))
            }
            try ServeCommand(
                exitWhenIdle: exitWhenIdle, unmountOnExit: unmountOnExit, address: address, readyDescriptor: readyFd
            ).run(context)
        }
    }
}

struct Shutdown: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "End the server of a store, and all its mounts.",
        discussion: """
            Returns when it has ended. What was fetched stays; the next server mounts the same images again.

              lamina shutdown
              lamina shutdown --root /srv/lamina
            """)

    @OptionGroup var facts: FactOptions
    @OptionGroup var common: CommonOptions

    func run() throws {
        try reporting(json: facts.json) { try ShutdownCommand().run(common.context(json: facts.json)) }
    }
}
