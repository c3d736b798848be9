import ArgumentParser
import LaminaDaemon

struct Setup: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Have another program use the images of the store.",
        discussion: """
              sudo lamina setup podman
              sudo lamina setup podman --undo
            """, subcommands: [Podman.self])

    struct Podman: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Have podman, buildah, skopeo and CRI-O see the images of the store.",
            discussion: """
                Names an additional image store in /etc/containers/storage.conf, and in lamina's own configuration \
                (/etc/lamina/conf.d/podman.toml). Everything else in podman's file stays as it is; where there is none, it is made of \
                what the distribution brings. A second call changes nothing. After it the server has to be started anew \
                ('systemctl restart lamina'); what is pulled from then on, 'podman run' finds.

                  sudo lamina setup podman --dry-run
                  sudo lamina setup podman
                  sudo lamina pull registry.example.org/app:1

                docs/podman.md has the whole way, and what does not work.
                """)

        @Flag(help: "Take it back: podman sees no images of lamina's any more.") var undo = false
        @Flag(help: "Say what would be changed, and change nothing.") var dryRun = false
        @Option(
            help: ArgumentHelp("The directory of the image store; by default 'podman' in the store.", valueName: "dir"))
        var images: String?
        @Option(help: ArgumentHelp("podman's file.", valueName: "file", visibility: .hidden)) var storageConf: String?
        @Option(help: ArgumentHelp("lamina's own file.", valueName: "file", visibility: .hidden)) var settings: String?

        @OptionGroup var facts: FactOptions
        @OptionGroup var common: CommonOptions

        func run() throws {
            try reporting(json: facts.json) {
                try SetupPodmanCommand(
                    undoes: undo, dryRun: dryRun, images: images, storageFile: storageConf, settingsFile: settings
                ).run(common.context(json: facts.json))
            }
        }
    }
}
