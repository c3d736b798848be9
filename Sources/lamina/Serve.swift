import ArgumentParser
import LaminaDaemon

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run the server of a store in the foreground.",
        discussion: """
            Answers the file system's requests and, at control.sock in the store, the other commands. SIGTERM or Ctrl-C \
            ends its mounts and itself; what has arrived is kept. Under systemd it says when it is ready (Type=notify).

              lamina serve --root /srv/lamina
            """)

    @Flag(help: "End after the last umount.")
    var exitWhenIdle = false

    @Option(
        help: ArgumentHelp(
            "Write to this descriptor when ready, or why not.", valueName: "number", visibility: .hidden))
    var readyFd: Int32?

    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let readyFd, readyFd < 0 { throw ValidationError("--ready-fd must not be negative") }
    }

    func run() throws {
        try reporting {
            try ServeCommand(exitWhenIdle: exitWhenIdle, readyDescriptor: readyFd).run(common.context(serving: true))
        }
    }
}
